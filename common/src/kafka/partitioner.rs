//! Which partition a key goes to: Java's murmur2, as every JVM client and librdkafka's "murmur2_random".

/// The partition of `key` in a topic with `partitions` partitions, at least one.
pub fn partition(key: &[u8], partitions: i32) -> i32 {
    (murmur2(key) & 0x7fff_ffff).cast_signed() % partitions
}

/// Austin Appleby's MurmurHash2 with the seed that Kafka's Java client uses (`Utils.murmur2`).
fn murmur2(data: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let (words, tail) = data.as_chunks::<4>();
    // Keys longer than 4 GiB don't exist; Java's length is an int, too.
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
