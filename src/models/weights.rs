//! Weights between networks and safetensors files, with the tensor names of the published PyTorch
//! checkpoints (`idm.*`, `wm.*`, `policy.*`).
//!
//! Start with [`Weights`]: [`Weights::parse`] and [`Weights::load`] read, [`Weights::store`] and
//! [`Weights::to_bytes`] write. The same weights always give the same bytes.
//! [`metadata`](super::metadata) reads and writes the network sizes.

use std::collections::{BTreeMap, BTreeSet};

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Tensor, TensorData, backend::Backend};
use safetensors::{Dtype, SafeTensors};

use super::gpu_failure::execution_error;
use super::{ModelError, Result};

/// Named tensors with metadata, in memory.
#[derive(Clone, Debug, Default)]
pub struct Weights {
    /// Free text by key. `config` holds the network sizes.
    pub metadata: BTreeMap<String, String>,
    tensors: BTreeMap<String, StoredTensor>,
}

/// A tensor as its bytes in the file.
#[derive(Clone, Debug)]
struct StoredTensor {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl Weights {
    /// Reads a safetensors file.
    pub fn parse(file: &[u8]) -> Result<Weights> {
        let (_, header) = SafeTensors::read_metadata(file)?;
        let metadata = header.metadata().clone().unwrap_or_default().into_iter().collect();
        let tensors = SafeTensors::deserialize(file)?
            .iter()
            .map(|(name, view)| {
                let stored = StoredTensor {
                    dtype: view.dtype(),
                    shape: view.shape().to_vec(),
                    bytes: view.data().to_vec(),
                };
                (name.to_owned(), stored)
            })
            .collect();
        Ok(Weights { metadata, tensors })
    }

    /// Returns a safetensors file. The order of the tensors depends only on the content.
    pub fn to_bytes(&self) -> Vec<u8> {
        // Tensors with wide elements come first, which keeps every tensor aligned.
        let mut order: Vec<_> = self.tensors.iter().collect();
        order.sort_by_key(|(name, stored)| (std::cmp::Reverse(stored.dtype.bitsize()), *name));

        let mut header = serde_json::Map::new();
        if !self.metadata.is_empty() {
            header.insert("__metadata__".to_owned(), serde_json::json!(self.metadata));
        }
        let mut end = 0;
        for (name, stored) in &order {
            let start = end;
            end += stored.bytes.len();
            let entry = serde_json::json!({
                "dtype": stored.dtype,
                "shape": stored.shape,
                "data_offsets": [start, end],
            });
            header.insert((*name).clone(), entry);
        }
        // The format allows spaces after the header: they align the data to 8 bytes.
        let mut header = serde_json::Value::Object(header).to_string().into_bytes();
        header.resize(header.len().next_multiple_of(8), b' ');

        let mut file = Vec::with_capacity(8 + header.len() + end);
        file.extend((header.len() as u64).to_le_bytes());
        file.extend(header);
        for (_, stored) in order {
            file.extend(&stored.bytes);
        }
        file
    }

    /// Returns whether there are no tensors.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// Returns, for each network, its name (the first part of its tensor names), the number of its
    /// tensors and the number of its values.
    pub fn networks(&self) -> Vec<(&str, usize, usize)> {
        let mut networks: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
        for (name, stored) in &self.tensors {
            let (tensors, numbers) =
                networks.entry(name.split('.').next().unwrap_or(name)).or_default();
            *tensors += 1;
            *numbers += stored.shape.iter().product::<usize>();
        }
        networks.into_iter().map(|(name, (tensors, numbers))| (name, tensors, numbers)).collect()
    }

    /// Returns the shape of a tensor. A number of axes other than `D` is an error.
    pub fn shape<const D: usize>(&self, name: &str) -> Result<[usize; D]> {
        let stored =
            self.tensors.get(name).ok_or_else(|| ModelError::Missing { name: name.to_owned() })?;
        stored.shape.clone().try_into().map_err(|seen| ModelError::Axes {
            name: name.to_owned(),
            seen,
            expected: D,
        })
    }

    /// Adds all parameters and state of a network, as `prefix.layer.name`.
    pub fn store<B: Backend, M: Module<B>>(&mut self, prefix: &str, network: &M) -> Result<()> {
        let mut storer = Storer { path: Path::new(prefix), weights: self, error: None };
        network.visit(&mut storer);
        storer.error.map_or(Ok(()), Err)
    }

    /// Returns `network` with all values replaced by the tensors `prefix.layer.name`. Missing and
    /// surplus tensors under `prefix` are errors.
    pub fn load<B: Backend, M: Module<B>>(
        &self,
        prefix: &str,
        network: M,
        device: &B::Device,
    ) -> Result<M> {
        let mut loader = Loader::<B> {
            path: Path::new(prefix),
            weights: self,
            device,
            used: BTreeSet::new(),
            error: None,
        };
        let network = network.map(&mut loader);
        if let Some(error) = loader.error {
            return Err(error);
        }
        // PyTorch's batch counters have no counterpart here.
        let prefix = format!("{prefix}.");
        let surplus = self.tensors.keys().find(|name| {
            name.starts_with(&prefix)
                && !name.ends_with(BATCHES_TRACKED)
                && !loader.used.contains(*name)
        });
        surplus.map_or(Ok(network), |name| Err(ModelError::Unexpected { name: name.clone() }))
    }

    /// Adds PyTorch's count of training batches next to each running variance. lapo itself never
    /// reads it.
    pub fn count_batches(&mut self, batches: u64) {
        let names: Vec<_> =
            self.tensors.keys().filter_map(|name| name.strip_suffix(".running_var")).collect();
        // Collected first, because the map cannot grow while its keys are borrowed.
        let names: Vec<_> =
            names.into_iter().map(|name| format!("{name}{BATCHES_TRACKED}")).collect();
        let stored = StoredTensor {
            dtype: Dtype::I64,
            shape: vec![],
            bytes: batches.to_le_bytes().to_vec(),
        };
        self.tensors.extend(names.into_iter().map(|name| (name, stored.clone())));
    }

    /// Adds a tensor.
    pub fn put(&mut self, name: impl Into<String>, shape: &[usize], values: &[f32]) {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.tensors
            .insert(name.into(), StoredTensor { dtype: Dtype::F32, shape: shape.to_vec(), bytes });
    }

    /// Returns the values of a tensor with the given shape.
    pub fn get(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let stored =
            self.tensors.get(name).ok_or_else(|| ModelError::Missing { name: name.to_owned() })?;
        if stored.shape != shape {
            let seen = stored.shape.clone();
            let expected = shape.to_vec();
            return Err(ModelError::Shape { name: name.to_owned(), seen, expected });
        }
        if stored.dtype != Dtype::F32 {
            let seen = stored.dtype.to_string();
            return Err(ModelError::Dtype { name: name.to_owned(), seen, expected: "F32" });
        }
        let (values, _) = stored.bytes.as_chunks::<4>();
        Ok(values.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
    }

    /// Returns the names (without `prefix`) and shapes of all tensors under `prefix`.
    pub fn shapes_under(&self, prefix: &str) -> Vec<(String, Vec<usize>)> {
        let under = self
            .tensors
            .iter()
            .filter_map(|(name, stored)| Some((name.strip_prefix(prefix)?, stored)));
        under.map(|(name, stored)| (name.to_owned(), stored.shape.clone())).collect()
    }
}

/// Suffix of PyTorch's batch counters.
const BATCHES_TRACKED: &str = ".num_batches_tracked";

/// The position in a walk over the layers of a network. Enum variants are not part of a name.
#[derive(Clone, Debug)]
pub struct Path(Vec<String>);

impl Path {
    /// Starts at the prefix of a network.
    pub fn new(prefix: &str) -> Self {
        Path(vec![prefix.to_owned()])
    }

    /// Descends into a field, an element or a variant.
    pub fn enter(&mut self, name: &str, container: &str) {
        if !container.starts_with("Enum:") {
            self.0.push(name.to_owned());
        }
    }

    /// Goes back up.
    pub fn exit(&mut self, container: &str) {
        if !container.starts_with("Enum:") {
            self.0.pop();
        }
    }

    /// Returns the published name of the current parameter.
    pub fn name(&self) -> String {
        self.0.join(".")
    }
}

/// Copies the parameters of a network into [`Weights`].
struct Storer<'a> {
    path: Path,
    weights: &'a mut Weights,
    error: Option<ModelError>,
}

impl<B: Backend> ModuleVisitor<B> for Storer<'_> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }

    fn exit_module(&mut self, _: &str, container: &str) {
        self.path.exit(container);
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        let shape = param.dims();
        match to_host(param.val()) {
            Ok(values) => self.weights.put(self.path.name(), &shape, &values),
            Err(error) => self.error = Some(error),
        }
    }
}

/// Copies [`Weights`] into the parameters of a network.
struct Loader<'a, B: Backend> {
    path: Path,
    weights: &'a Weights,
    device: &'a B::Device,
    used: BTreeSet<String>,
    error: Option<ModelError>,
}

impl<B: Backend> ModuleMapper<B> for Loader<'_, B> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }

    fn exit_module(&mut self, _: &str, container: &str) {
        self.path.exit(container);
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
        let name = self.path.name();
        let shape = param.dims();
        let loaded = self.weights.get(&name, &shape);
        self.used.insert(name);
        match loaded {
            // Keeps state without gradient, such as running statistics, without gradient.
            Ok(values) => param.map(|old| {
                Tensor::from_data(TensorData::new(values, shape), self.device)
                    .set_require_grad(old.is_require_grad())
            }),
            Err(error) => {
                // The visitor cannot return early: the first error is kept.
                self.error.get_or_insert(error);
                param
            }
        }
    }
}

/// Copies the values of a tensor to the host.
pub fn to_host<B: Backend, const D: usize>(tensor: Tensor<B, D>) -> Result<Vec<f32>> {
    let data = tensor.try_into_data().map_err(|error| execution_error(&error))?;
    data.into_vec().map_err(|error| execution_error(&error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::init::Init;
    use crate::models::layers::{BatchNorm2d, Linear};
    use burn::backend::Flex;

    fn linear(input: usize, output: usize) -> Linear<Flex> {
        Linear::new(&mut Init::new(1, &Default::default()), input, output)
    }

    #[test]
    fn stored_weights_are_read_back_and_their_bytes_are_deterministic() {
        let mut weights = Weights::default();
        weights
            .metadata
            .extend([("b".to_owned(), "2".to_owned()), ("a".to_owned(), "1".to_owned())]);
        let norm = BatchNorm2d::<Flex>::new(&mut Init::new(1, &Default::default()), 3);
        weights.store::<Flex, _>("net", &norm).expect("the CPU does not fail");
        weights.count_batches(7);
        let file = weights.to_bytes();
        let back = Weights::parse(&file).expect("our own file");
        assert_eq!(back.to_bytes(), file);
        assert_eq!(back.metadata, weights.metadata);
        assert_eq!(back.get("net.running_var", &[3]).expect("stored"), [1.0; 3]);
        assert_eq!(back.shapes_under("net.num_").len(), 1);
        assert!(back.load::<Flex, _>("net", norm, &Default::default()).is_ok());
    }

    #[test]
    fn errors_name_the_tensor() {
        let mut weights = Weights::default();
        weights.store::<Flex, _>("net", &linear(2, 3)).expect("the CPU does not fail");
        let load = |weights: &Weights, network| match weights.load::<Flex, _>(
            "net",
            network,
            &Default::default(),
        ) {
            Ok(_) => "loaded".to_owned(),
            Err(error) => error.to_string(),
        };
        assert_eq!(load(&weights, linear(2, 3)), "loaded");
        assert_eq!(
            load(&weights, linear(4, 3)),
            "tensor `net.weight` has shape [3, 2], expected [3, 4]"
        );
        weights.put("net.extra", &[1], &[0.0]);
        assert_eq!(
            load(&weights, linear(2, 3)),
            "unexpected tensor `net.extra` in the weights: this configuration has no such layer"
        );
        assert_eq!(
            load(&Weights::default(), linear(2, 3)),
            "tensor `net.weight` is missing from the weights"
        );
    }
}
