//! Which partition a key goes to: Java's murmur2, as every JVM client and librdkafka's "murmur2_random".
