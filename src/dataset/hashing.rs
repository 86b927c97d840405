//! Hash tables for plans and commits, which look up a few names for each of a million videos.
//!
//! In: keys, digests and addresses. Out: [`HashMap`] and [`HashSet`] with a hash that costs a third of the standard library's. It is seeded
//! at random, so no order and no collision is the same twice; it is not made for keys that an attacker chooses after seeing the seed.

use foldhash::fast::RandomState;

/// A map.
pub type HashMap<K, V> = std::collections::HashMap<K, V, RandomState>;

/// A set.
pub type HashSet<K> = std::collections::HashSet<K, RandomState>;
