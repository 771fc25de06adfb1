//! The door: HTTP from outside, bounded and checked before tiny_http sees it.
