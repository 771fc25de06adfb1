-- The owner of each partition that a service reads, and the position of its effects in this
-- database. See docs/decisions/0040-positions-in-the-database.md.

-- The running workers of each topic.
CREATE TABLE worker (
    id          uuid PRIMARY KEY,
    topic       text COLLATE "C" NOT NULL,
    -- The worker is taken for dead after this time of the database's clock.
    lease_until timestamptz NOT NULL
);

CREATE TABLE topic_partition (
    topic         text COLLATE "C" NOT NULL,
    partition     integer NOT NULL CHECK (partition >= 0),
    -- The id of a row in worker. Without such a row, or after its lease, the partition is free.
    owner         uuid,
    -- Rises with each owner. A transaction of an earlier owner finds no row with its epoch.
    epoch         bigint NOT NULL DEFAULT 0,
    -- The first offset whose effects are not stored here. Null before the first record: the owner
    -- begins at the offset that its consumer group has committed to Kafka, else at the beginning.
    next_offset   bigint CHECK (next_offset >= 0),
    -- The offset at which the next owner begins to read. What lies between resume_offset and
    -- next_offset is stored, but may not be published.
    resume_offset bigint CHECK (resume_offset <= next_offset),
    -- The id of the topic that the offsets belong to; null if the broker has no topic ids.
    topic_id      uuid,
    PRIMARY KEY (topic, partition),
    CHECK ((next_offset IS NULL) = (resume_offset IS NULL))
    -- Updates stay on the page, so they need no new index entry.
) WITH (fillfactor = 50);
