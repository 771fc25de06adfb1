//! The partition of a key, by murmur2. The Java client and librdkafka's `murmur2_random`
//! partitioner select the same partition.

/// Returns the partition of `key`. `partitions` is the topic's number of partitions, at least 1.
pub fn partition(key: &[u8], partitions: i32) -> i32 {
    (murmur2(key) & 0x7fff_ffff).cast_signed() % partitions
}

/// MurmurHash2 with the seed of the Java client. Source: `Utils.murmur2` in Apache Kafka.
fn murmur2(data: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let (words, tail) = data.as_chunks::<4>();
    // Keys are shorter than 4 GiB. In Java the length is also a 32-bit number.
    let mut h = 0x9747_b28c ^ data.len() as u32;
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> 24;
        h = h.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    if !tail.is_empty() {
        for (i, byte) in tail.iter().enumerate() {
            h ^= u32::from(*byte) << (8 * i);
        }
        h = h.wrapping_mul(M);
    }
    h ^= h >> 13;
    h = h.wrapping_mul(M);
    h ^ (h >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Computed with `org.apache.kafka.common.utils.Utils.murmur2` and `toPositive(..) % 9` of
    /// kafka-clients 3.9.1.
    const OF_THE_JAVA_CLIENT: &[(&[u8], u32, i32)] = &[
        (b"", 275_646_681, 0),
        (b"a", 2_731_586_172, 4),
        (b"ab", 316_155_434, 5),
        (b"abc", 479_470_107, 3),
        (b"abcd", 2_971_317_748, 2),
        (b"key-0", 29_210_041, 1),
        (b"key-1", 193_331_640, 3),
        (b"6f1c0b60-8e38-4a4e-9a3e-0f9d3a1f5c11", 891_790_266, 3),
        (b"NL66OPEN0000000000", 298_697_909, 5),
        (b"1763877600000", 1_301_036_626, 1),
        ("ü世🦀".as_bytes(), 1_558_031_526, 0),
        (
            b"a long key of more than thirty-two bytes, which ends in the middle of a word",
            4_183_477_449,
            4,
        ),
        (&[0xff, 0x80, 0x00, 0xfe, 0x81, 0xff, 0x90], 4_168_758_467, 0),
    ];

    #[test]
    fn partition_equals_that_of_the_java_client() {
        for &(key, hash, partition_of_9) in OF_THE_JAVA_CLIENT {
            assert_eq!(murmur2(key), hash, "{key:?}");
            assert_eq!(partition(key, 9), partition_of_9, "{key:?}");
            assert_eq!(partition(key, 1), 0);
        }
    }
}
