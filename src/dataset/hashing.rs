//! Hash tables for plans and commits: they look up a few names for each of a million videos.
//!
//! The hash function costs a third of the standard library's. Its seed is random, so iteration
//! order differs between runs. It does not resist an attacker who can choose keys after seeing the
//! seed.

use foldhash::fast::RandomState;

/// A hash map with the fast hash function.
pub type HashMap<K, V> = std::collections::HashMap<K, V, RandomState>;

/// A hash set with the fast hash function.
pub type HashSet<K> = std::collections::HashSet<K, RandomState>;
