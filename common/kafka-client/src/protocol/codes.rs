//! Error codes of the protocol. Source: the protocol guide, "Error Codes".

use std::fmt;

/// An error code. `Display` writes its name, for example "NotLeaderOrFollower".
#[derive(Debug, Clone, Copy)]
pub struct Name(pub i16);

macro_rules! codes {
    ($($name:ident = $code:literal;)*) => {
        $(#[doc = concat!("Protocol error code ", $code, ".")]
        pub const $name: i16 = $code;)*

        #[cfg(test)]
        const ALL: &[(&str, i16)] = &[$((stringify!($name), $code)),*];
    };
}

codes! {
    UNKNOWN_SERVER_ERROR = -1;
    OFFSET_OUT_OF_RANGE = 1;
    CORRUPT_MESSAGE = 2;
    UNKNOWN_TOPIC_OR_PARTITION = 3;
    LEADER_NOT_AVAILABLE = 5;
    REQUEST_TIMED_OUT = 7;
    MESSAGE_TOO_LARGE = 10;
    OFFSET_METADATA_TOO_LARGE = 12;
    INVALID_TOPIC_EXCEPTION = 17;
    RECORD_LIST_TOO_LARGE = 18;
    NOT_ENOUGH_REPLICAS_AFTER_APPEND = 20;
    INVALID_REQUIRED_ACKS = 21;
    ILLEGAL_GENERATION = 22;
    INCONSISTENT_GROUP_PROTOCOL = 23;
    INVALID_GROUP_ID = 24;
    UNKNOWN_MEMBER_ID = 25;
    INVALID_SESSION_TIMEOUT = 26;
    REBALANCE_IN_PROGRESS = 27;
    INVALID_COMMIT_OFFSET_SIZE = 28;
    TOPIC_AUTHORIZATION_FAILED = 29;
    GROUP_AUTHORIZATION_FAILED = 30;
    CLUSTER_AUTHORIZATION_FAILED = 31;
    INVALID_TIMESTAMP = 32;
    UNSUPPORTED_SASL_MECHANISM = 33;
    ILLEGAL_SASL_STATE = 34;
    UNSUPPORTED_VERSION = 35;
    TOPIC_ALREADY_EXISTS = 36;
    INVALID_REPLICATION_FACTOR = 38;
    UNSUPPORTED_FOR_MESSAGE_FORMAT = 43;
    OUT_OF_ORDER_SEQUENCE_NUMBER = 45;
    DUPLICATE_SEQUENCE_NUMBER = 46;
    INVALID_PRODUCER_EPOCH = 47;
    INVALID_PRODUCER_ID_MAPPING = 49;
    SASL_AUTHENTICATION_FAILED = 58;
    UNKNOWN_PRODUCER_ID = 59;
    UNSUPPORTED_COMPRESSION_TYPE = 76;
    MEMBER_ID_REQUIRED = 79;
    FENCED_INSTANCE_ID = 82;
    INVALID_RECORD = 87;
    PRODUCER_FENCED = 90;
    INCONSISTENT_TOPIC_ID = 103;
}

/// The names of the codes from 1 on, in one string: a table would add a pointer for each name.
const NAMES: &str = "\
    OffsetOutOfRange|CorruptMessage|UnknownTopicOrPartition|InvalidFetchSize|LeaderNotAvailable|\
    NotLeaderOrFollower|RequestTimedOut|BrokerNotAvailable|ReplicaNotAvailable|MessageTooLarge|\
    StaleControllerEpoch|OffsetMetadataTooLarge|NetworkException|CoordinatorLoadInProgress|\
    CoordinatorNotAvailable|NotCoordinator|InvalidTopicException|RecordListTooLarge|\
    NotEnoughReplicas|NotEnoughReplicasAfterAppend|InvalidRequiredAcks|IllegalGeneration|\
    InconsistentGroupProtocol|InvalidGroupId|UnknownMemberId|InvalidSessionTimeout|\
    RebalanceInProgress|InvalidCommitOffsetSize|TopicAuthorizationFailed|GroupAuthorizationFailed|\
    ClusterAuthorizationFailed|InvalidTimestamp|UnsupportedSaslMechanism|IllegalSaslState|\
    UnsupportedVersion|TopicAlreadyExists|InvalidPartitions|InvalidReplicationFactor|\
    InvalidReplicaAssignment|InvalidConfig|NotController|InvalidRequest|\
    UnsupportedForMessageFormat|PolicyViolation|OutOfOrderSequenceNumber|DuplicateSequenceNumber|\
    InvalidProducerEpoch|InvalidTxnState|InvalidProducerIdMapping|InvalidTransactionTimeout|\
    ConcurrentTransactions|TransactionCoordinatorFenced|TransactionalIdAuthorizationFailed|\
    SecurityDisabled|OperationNotAttempted|KafkaStorageError|LogDirNotFound|\
    SaslAuthenticationFailed|UnknownProducerId|ReassignmentInProgress|DelegationTokenAuthDisabled|\
    DelegationTokenNotFound|DelegationTokenOwnerMismatch|DelegationTokenRequestNotAllowed|\
    DelegationTokenAuthorizationFailed|DelegationTokenExpired|InvalidPrincipalType|NonEmptyGroup|\
    GroupIdNotFound|FetchSessionIdNotFound|InvalidFetchSessionEpoch|ListenerNotFound|\
    TopicDeletionDisabled|FencedLeaderEpoch|UnknownLeaderEpoch|UnsupportedCompressionType|\
    StaleBrokerEpoch|OffsetNotAvailable|MemberIdRequired|PreferredLeaderNotAvailable|\
    GroupMaxSizeReached|FencedInstanceId|EligibleLeadersNotAvailable|ElectionNotNeeded|\
    NoReassignmentInProgress|GroupSubscribedToTopic|InvalidRecord|UnstableOffsetCommit|\
    ThrottlingQuotaExceeded|ProducerFenced|ResourceNotFound|DuplicateResource|\
    UnacceptableCredential|InconsistentVoterSet|InvalidUpdateVersion|FeatureUpdateFailed|\
    PrincipalDeserializationFailure|SnapshotNotFound|PositionOutOfRange|UnknownTopicId|\
    DuplicateBrokerRegistration|BrokerIdNotRegistered|InconsistentTopicId|InconsistentClusterId|\
    TransactionalIdNotFound|FetchSessionTopicIdError|IneligibleReplica|NewLeaderElected|\
    OffsetMovedToTieredStorage|FencedMemberEpoch|UnreleasedInstanceId|UnsupportedAssignor|\
    StaleMemberEpoch|MismatchedEndpointType|UnsupportedEndpointType|UnknownControllerId|\
    UnknownSubscriptionId|TelemetryTooLarge|InvalidRegistration|TransactionAbortable|\
    InvalidRecordState|ShareSessionNotFound|InvalidShareSessionEpoch|FencedStateEpoch|\
    InvalidVoterKey|DuplicateVoter|VoterNotFound|InvalidRegularExpression|RebootstrapRequired|\
    StreamsInvalidTopology|StreamsInvalidTopologyEpoch|StreamsTopologyFenced|\
    ShareSessionLimitReached";

/// The codes that the protocol guide lists as retriable.
const RETRIABLE: &[i16] = &[
    2, 3, 5, 6, 7, 9, 13, 14, 15, 16, 19, 20, 41, 56, 70, 71, 72, 74, 75, 78, 80, 83, 84, 88, 89,
    100, 103, 106, 122, 123, 133,
];

/// True if the protocol guide lists the error as retriable.
pub fn is_retriable(code: i16) -> bool {
    RETRIABLE.contains(&code)
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == UNKNOWN_SERVER_ERROR {
            return f.write_str("UnknownServerError");
        }
        let place = usize::try_from(self.0).ok().and_then(|code| code.checked_sub(1));
        match place.and_then(|place| NAMES.split('|').nth(place)) {
            Some(name) => f.write_str(name),
            None => write!(f, "Unknown error code: {}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_protocol::ResponseError;

    #[test]
    fn names_and_retriable_codes_match_kafka_protocol() {
        for code in (-5..200).filter(|code| *code != 0) {
            let Some(expected) = ResponseError::try_from_code(code) else { panic!("{code}") };
            assert_eq!(Name(code).to_string(), expected.to_string());
            assert_eq!(is_retriable(code), expected.is_retriable(), "{code}");
        }
        for (name, code) in ALL {
            let words = name.split('_').map(|it| it[..1].to_owned() + &it[1..].to_lowercase());
            assert_eq!(Name(*code).to_string(), words.collect::<String>());
        }
    }
}
