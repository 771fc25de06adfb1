//! What is asked of brokers: in which version, and which shape the reply has.

use crate::shape::Shape::{self, Array, Compact, CompactArray, Fixed, Tagged, Text};
use kafka_protocol::messages::{
    ApiVersionsRequest, ApiVersionsResponse, CreateTopicsRequest, DescribeConfigsRequest,
    FetchRequest, FindCoordinatorRequest, HeartbeatRequest, IncrementalAlterConfigsRequest,
    InitProducerIdRequest, JoinGroupRequest, LeaveGroupRequest, ListOffsetsRequest,
    MetadataRequest, OffsetCommitRequest, OffsetFetchRequest, ProduceRequest,
    SaslAuthenticateRequest, SaslHandshakeRequest, SyncGroupRequest,
};
use kafka_protocol::protocol::Request;
use std::fmt;

/// A request in the version that this bank speaks: the last that Kafka 2.8 has, or the last that names topics.
pub trait Ask: Request {
    /// Its name in Kafka's documentation.
    const NAME: &'static str;
    /// Its version.
    const VERSION: i16;
    /// Shape of the reply, behind its header.
    const REPLY: &'static [Shape];
    /// Largest reply taken, bytes: all configs of some ten topics are about 100 kB.
    const REPLY_BYTES_MAX: usize = 4 << 20;

    /// How long the broker wants to be left alone, ms.
    fn throttle_ms(_reply: &Self::Response) -> i32 {
        0
    }
}

/// Versions of a request that a broker serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// The API key of the request.
    pub key: i16,
    /// First version.
    pub lowest: i16,
    /// Last version.
    pub highest: i16,
}

impl Range {
    /// All that a broker serves.
    pub(crate) fn all(reply: &ApiVersionsResponse) -> Vec<Self> {
        let range = |it: &kafka_protocol::messages::api_versions_response::ApiVersion| Self {
            key: it.api_key,
            lowest: it.min_version,
            highest: it.max_version,
        };
        reply.api_keys.iter().map(range).collect()
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "versions {} to {}", self.lowest, self.highest)
    }
}

const NO_TAGS: Shape = Tagged(&[]);

macro_rules! ask {
    ($request:ty, $name:literal, $version:literal, $reply:expr $(, $limit:expr)?) => {
        ask!(unthrottled $request, $name, $version, $reply $(, $limit)?;
            fn throttle_ms(reply: &Self::Response) -> i32 {
                reply.throttle_time_ms
            }
        );
    };
    (unthrottled $request:ty, $name:literal, $version:literal, $reply:expr $(, $limit:expr)?; $($throttle:item)?) => {
        impl Ask for $request {
            const NAME: &'static str = $name;
            const VERSION: i16 = $version;
            const REPLY: &'static [Shape] = $reply;
            $(const REPLY_BYTES_MAX: usize = $limit;)?
            $($throttle)?
        }
    };
}

ask!(ApiVersionsRequest, "ApiVersions", 0, &[Fixed(2), Array(&[Fixed(6)])]);

ask!(
    MetadataRequest,
    "Metadata",
    9,
    &[
        Fixed(4),
        CompactArray(&[Fixed(4), Compact, Fixed(4), Compact, NO_TAGS]),
        Compact,
        Fixed(4),
        CompactArray(&[
            Fixed(2),
            Compact,
            Fixed(1),
            CompactArray(&[
                Fixed(14),
                CompactArray(&[Fixed(4)]),
                CompactArray(&[Fixed(4)]),
                CompactArray(&[Fixed(4)]),
                NO_TAGS,
            ]),
            Fixed(4),
            NO_TAGS,
        ]),
        Fixed(4),
        NO_TAGS,
    ]
);

ask!(
    ProduceRequest,
    "Produce",
    9,
    &[
        CompactArray(&[
            Compact,
            CompactArray(&[
                Fixed(30),
                CompactArray(&[Fixed(4), Compact, NO_TAGS]),
                Compact,
                NO_TAGS,
            ]),
            NO_TAGS,
        ]),
        Fixed(4),
        NO_TAGS,
    ]
);

/// A broker answers with as much as was asked for, and always with a first batch, however large: it takes batches of up to
/// 100 MB if a topic lets it, which this bank's don't.
const FETCH_REPLY_BYTES_MAX: usize = 64 << 20;

ask!(
    FetchRequest,
    "Fetch",
    12,
    &[
        Fixed(10),
        CompactArray(&[
            Compact,
            CompactArray(&[
                Fixed(30),
                CompactArray(&[Fixed(16), NO_TAGS]),
                Fixed(4),
                Compact,
                Tagged(&[
                    (0, &[Fixed(12), NO_TAGS]),
                    (1, &[Fixed(8), NO_TAGS]),
                    (2, &[Fixed(12), NO_TAGS]),
                ]),
            ]),
            NO_TAGS,
        ]),
        NO_TAGS,
    ],
    FETCH_REPLY_BYTES_MAX
);

ask!(
    ListOffsetsRequest,
    "ListOffsets",
    6,
    &[Fixed(4), CompactArray(&[Compact, CompactArray(&[Fixed(26), NO_TAGS]), NO_TAGS]), NO_TAGS]
);

ask!(InitProducerIdRequest, "InitProducerId", 4, &[Fixed(16), NO_TAGS]);

ask!(
    FindCoordinatorRequest,
    "FindCoordinator",
    3,
    &[Fixed(6), Compact, Fixed(4), Compact, Fixed(4), NO_TAGS]
);

ask!(
    OffsetFetchRequest,
    "OffsetFetch",
    7,
    &[
        Fixed(4),
        CompactArray(&[Compact, CompactArray(&[Fixed(16), Compact, Fixed(2), NO_TAGS]), NO_TAGS,]),
        Fixed(2),
        NO_TAGS,
    ]
);

ask!(
    OffsetCommitRequest,
    "OffsetCommit",
    8,
    &[Fixed(4), CompactArray(&[Compact, CompactArray(&[Fixed(6), NO_TAGS]), NO_TAGS]), NO_TAGS]
);

ask!(
    CreateTopicsRequest,
    "CreateTopics",
    5,
    &[
        Fixed(4),
        CompactArray(&[
            Compact,
            Fixed(2),
            Compact,
            Fixed(6),
            CompactArray(&[Compact, Compact, Fixed(3), NO_TAGS]),
            Tagged(&[(0, &[Fixed(2)])]),
        ]),
        NO_TAGS,
    ]
);

ask!(
    DescribeConfigsRequest,
    "DescribeConfigs",
    4,
    &[
        Fixed(4),
        CompactArray(&[
            Fixed(2),
            Compact,
            Fixed(1),
            Compact,
            CompactArray(&[
                Compact,
                Compact,
                Fixed(3),
                CompactArray(&[Compact, Compact, Fixed(1), NO_TAGS]),
                Fixed(1),
                Compact,
                NO_TAGS,
            ]),
            NO_TAGS,
        ]),
        NO_TAGS,
    ]
);

ask!(
    IncrementalAlterConfigsRequest,
    "IncrementalAlterConfigs",
    1,
    &[Fixed(4), CompactArray(&[Fixed(2), Compact, Fixed(1), Compact, NO_TAGS]), NO_TAGS]
);

ask!(unthrottled SaslHandshakeRequest, "SaslHandshake", 1, &[Fixed(2), Array(&[Text])];);

ask!(
    unthrottled SaslAuthenticateRequest,
    "SaslAuthenticate",
    2,
    &[Fixed(2), Compact, Compact, Fixed(8), NO_TAGS];
);

ask!(
    JoinGroupRequest,
    "JoinGroup",
    7,
    &[
        Fixed(10),
        Compact,
        Compact,
        Compact,
        Compact,
        CompactArray(&[Compact, Compact, Compact, NO_TAGS]),
        NO_TAGS,
    ]
);

ask!(SyncGroupRequest, "SyncGroup", 4, &[Fixed(6), Compact, NO_TAGS]);

ask!(HeartbeatRequest, "Heartbeat", 4, &[Fixed(6), NO_TAGS]);

ask!(
    LeaveGroupRequest,
    "LeaveGroup",
    4,
    &[Fixed(6), CompactArray(&[Compact, Compact, Fixed(2), NO_TAGS]), NO_TAGS]
);
