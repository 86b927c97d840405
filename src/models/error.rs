//! What can go wrong between pixels and tensors, with the value seen and the value expected.

/// A failure of this room.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The bytes are not a safetensors file.
    #[error("read the weights: {0}")]
    Format(#[from] safetensors::SafeTensorError),
    /// A tensor the network needs is not in the file.
    #[error("find tensor `{name}` in the weights: it is not there")]
    Missing {
        /// Published name of the tensor.
        name: String,
    },
    /// A tensor has another number of axes than its layer.
    #[error("load tensor `{name}`: its shape is {seen:?}, expected {expected} axes")]
    Axes {
        /// The tensor's published name.
        name: String,
        /// Its shape.
        seen: Vec<usize>,
        /// How many axes it should have.
        expected: usize,
    },
    /// A tensor in the file belongs to no layer of the network.
    #[error("place tensor `{name}` of the weights: no layer of this configuration has that name")]
    Unexpected {
        /// Name of the tensor in the file.
        name: String,
    },
    /// A tensor has another shape than its layer.
    #[error("load tensor `{name}`: its shape is {seen:?}, expected {expected:?}")]
    Shape {
        /// Published name of the tensor.
        name: String,
        /// The shape in the file.
        seen: Vec<usize>,
        /// The shape of the layer.
        expected: Vec<usize>,
    },
    /// A tensor has another element type than expected.
    #[error("load tensor `{name}`: its elements are {seen}, expected {expected}")]
    Dtype {
        /// Published name of the tensor.
        name: String,
        /// The type in the file.
        seen: String,
        /// The type expected.
        expected: &'static str,
    },
    /// A file of weights does not read.
    #[error("read the checkpoint {file}: {reason}")]
    Checkpoint {
        /// The checkpoint.
        file: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The file's metadata do not describe a network.
    #[error("read metadata `{key}` of the weights: {problem}")]
    Metadata {
        /// The metadata's key.
        key: &'static str,
        /// What is wrong with its value.
        problem: String,
    },
    /// A size that no network can have.
    #[error("use `{field}: {seen}`: expected {expected}")]
    Config {
        /// The field of the configuration.
        field: &'static str,
        /// Its value.
        seen: String,
        /// What is possible.
        expected: String,
    },
    /// The pixels do not fit the network or the windows asked for.
    #[error("take {what}: seen {seen}, expected {expected}")]
    Frames {
        /// What was being taken.
        what: &'static str,
        /// The size seen.
        seen: String,
        /// The size expected.
        expected: String,
    },
    /// The device cannot be had.
    #[error("use device `{device}`: {problem}")]
    Device {
        /// The device asked for.
        device: String,
        /// Why it cannot be had, and the cure.
        problem: String,
    },
    /// The device failed while computing.
    #[error("compute on the device: {0}")]
    Execution(String),
}

/// The room's result.
pub type Result<T, E = ModelError> = std::result::Result<T, E>;
