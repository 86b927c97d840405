//! Published PyTorch checkpoints: a file of `torch.save` goes in, [`Weights`] under the same names come out.
//!
//! `idm_fdm.pt` holds the states `idm` and `wm`, `latent_policy.pt` the state `policy`; settings and logs beside them are not looked
//! at. Start at [`read_pytorch`]. What sizes the networks have is read off the tensors' shapes, in `metadata`.

use std::path::Path;

use burn_store::pytorch::{PytorchError, PytorchReader};

use super::weights::Weights;
use super::{ModelError, Result};

/// The networks' states, as published.
const NETWORKS: [&str; 3] = ["idm", "wm", "policy"];

/// Reads a checkpoint: every network that it holds, at least one.
pub fn read_pytorch(path: &Path) -> Result<Weights> {
    let failed =
        |reason: String| ModelError::Checkpoint { file: path.display().to_string(), reason };
    let mut weights = Weights::default();
    for network in NETWORKS {
        let reader = match PytorchReader::with_top_level_key(path, network) {
            Ok(reader) => reader,
            Err(PytorchError::KeyNotFound(_)) => continue,
            Err(error) => return Err(failed(error.to_string())),
        };
        for (name, tensor) in reader.tensors() {
            let data =
                tensor.to_data().map_err(|error| failed(format!("{network}.{name}: {error:?}")))?;
            // Counts of batches are whole numbers, and nothing reads them.
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
