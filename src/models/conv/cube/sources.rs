//! The sources of all kernels, as their version.

/// The sources of all kernels. The runtime names a compiled kernel by its type alone, so compiled
/// kernels are kept apart by a digest of these.
pub const SOURCES: [&str; 13] = [
    include_str!("kernels/channels.rs"),
    include_str!("kernels/elementwise.rs"),
    include_str!("kernels/nearest.rs"),
    include_str!("kernels/resize.rs"),
    include_str!("kernels/unfold.rs"),
    include_str!("many/adam.rs"),
    include_str!("many/cast.rs"),
    include_str!("many/gate.rs"),
    include_str!("many/muon.rs"),
    include_str!("many/orthogonal.rs"),
    include_str!("many/pairs.rs"),
    include_str!("many.rs"),
    include_str!("statistics.rs"),
];
