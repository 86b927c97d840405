//! Reads published PyTorch checkpoints into [`Weights`], with the same tensor names.
//!
//! `idm_fdm.pt` holds the states `idm` and `wm`; `latent_policy.pt` holds the state `policy`. Their
//! settings and logs are ignored: `metadata` infers the network sizes from the tensor shapes. Start
//! at [`read_pytorch`].

use std::path::Path;

use burn_store::pytorch::{PytorchError, PytorchReader};

use super::weights::Weights;
use super::{ModelError, Result};

/// Top-level keys of the networks in the published files.
const NETWORKS: [&str; 3] = ["idm", "wm", "policy"];

/// Reads all networks of a checkpoint. A file without any of them is an error.
pub fn read_pytorch(path: &Path) -> Result<Weights> {
    let failed =
        |reason: String| ModelError::Checkpoint { file: path.display().to_string(), reason };
    let mut weights = Weights::default();
    for network in NETWORKS {
        let reader = match PytorchReader::with_top_level_key(path, network) {
            Ok(reader) => reader,
            // Each published file holds only some of the networks.
            Err(PytorchError::KeyNotFound(_)) => continue,
            Err(error) => return Err(failed(error.to_string())),
        };
        for (name, tensor) in reader.tensors() {
            let data =
                tensor.to_data().map_err(|error| failed(format!("{network}.{name}: {error:?}")))?;
            // Skips `num_batches_tracked`, an integer that inference does not need.
            if data.dtype.is_float() {
                let values: Vec<f32> = data.iter::<f32>().collect();
                weights.put(format!("{network}.{name}"), data.shape.as_slice(), &values);
            }
        }
    }
    if weights.is_empty() {
        return Err(failed(format!("it holds none of the states {}", NETWORKS.join(", "))));
    }
    Ok(weights)
}
