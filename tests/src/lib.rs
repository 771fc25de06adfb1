//! End-to-end tests of the running bank: see `tests/`.
