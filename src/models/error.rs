//! Errors of networks, weights and devices.

/// An error of this module.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The bytes are not a safetensors file.
    #[error("the weights are not a valid safetensors file: {0}")]
    Format(#[from] safetensors::SafeTensorError),
    /// The file lacks a tensor of the network.
    #[error("tensor `{name}` is missing from the weights")]
    Missing {
        /// Published name of the tensor.
        name: String,
    },
    /// A tensor has the wrong number of axes.
    #[error("tensor `{name}` has shape {seen:?}, expected {expected} axes")]
    Axes {
        /// Published name of the tensor.
        name: String,
        /// Shape in the file.
        seen: Vec<usize>,
        /// Expected number of axes.
        expected: usize,
    },
    /// The file has a tensor without a layer in the network.
    #[error("unexpected tensor `{name}` in the weights: this configuration has no such layer")]
    Unexpected {
        /// Name of the tensor in the file.
        name: String,
    },
    /// A tensor and its layer have different shapes.
    #[error("tensor `{name}` has shape {seen:?}, expected {expected:?}")]
    Shape {
        /// Published name of the tensor.
        name: String,
        /// Shape in the file.
        seen: Vec<usize>,
        /// Shape of the layer.
        expected: Vec<usize>,
    },
    /// A tensor has the wrong element type.
    #[error("tensor `{name}` has element type {seen}, expected {expected}")]
    Dtype {
        /// Published name of the tensor.
        name: String,
        /// Element type in the file.
        seen: String,
        /// Expected element type.
        expected: &'static str,
    },
    /// A weight file is unreadable.
    #[error("cannot read checkpoint {file}: {reason}")]
    Checkpoint {
        /// Path of the file.
        file: String,
        /// Why it is unreadable.
        reason: String,
    },
    /// The file's metadata do not describe a network.
    #[error("invalid metadata `{key}` in the weights: {problem}")]
    Metadata {
        /// Metadata key.
        key: &'static str,
        /// Why its value is invalid.
        problem: String,
    },
    /// A field has a value that no network can have.
    #[error("`{field}` is {seen}, expected {expected}")]
    Config {
        /// Field of the configuration.
        field: &'static str,
        /// Its value.
        seen: String,
        /// Valid values.
        expected: String,
    },
    /// Frames, latent actions or a window do not fit the network.
    #[error("invalid {what}: got {seen}, expected {expected}")]
    Frames {
        /// The invalid input: `frames`, `latent actions` or `window`.
        what: &'static str,
        /// Size of the input.
        seen: String,
        /// Expected size.
        expected: String,
    },
    /// The device is not available.
    #[error("cannot use device `{device}`: {problem}")]
    Device {
        /// Requested device.
        device: String,
        /// Why it is not available, and how to fix that.
        problem: String,
    },
    /// The weights hold another kind of network.
    #[error("the weights are of kind `{seen}`, expected `{expected}`")]
    Kind {
        /// Kind in the file.
        seen: &'static str,
        /// Expected kind.
        expected: &'static str,
    },
    /// A decoder was trained on latent actions of another length.
    #[error("the decoder reads latent actions of length {seen}, but the policy's have {expected}")]
    DecoderSize {
        /// Length that the decoder reads.
        seen: usize,
        /// Length of the policy's latent actions.
        expected: usize,
    },
    /// A computation on the device failed.
    #[error("computation on the device failed: {0}")]
    Execution(String),
}

/// This module's result.
pub type Result<T, E = ModelError> = std::result::Result<T, E>;
