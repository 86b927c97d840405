//! Weights on their way between networks and safetensors files, under the names of the published PyTorch checkpoints (`idm.*`,
//! `wm.*`, `policy.*`).
//!
//! Start with [`Weights`]: [`Weights::parse`] and [`Weights::load`] on the way in, [`Weights::store`] and
//! [`Weights::to_bytes`] on the way out. The same weights always give the same bytes. What the metadata say of the
//! networks' sizes is read and written in [`metadata`](super::metadata).

use std::collections::{BTreeMap, BTreeSet};

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Tensor, TensorData, backend::Backend};
use safetensors::{Dtype, SafeTensors};

use super::{ModelError, Result};

/// Named tensors with metadata, in memory.
#[derive(Clone, Debug, Default)]
pub struct Weights {
    /// Free text by key; `config` holds the networks' sizes.
    pub metadata: BTreeMap<String, String>,
    tensors: BTreeMap<String, Stored>,
}

#[derive(Clone, Debug)]
struct Stored {
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
                let stored = Stored {
                    dtype: view.dtype(),
                    shape: view.shape().to_vec(),
                    bytes: view.data().to_vec(),
                };
                (name.to_owned(), stored)
            })
            .collect();
        Ok(Weights { metadata, tensors })
    }

    /// Writes a safetensors file, in an order that depends on the content alone.
    pub fn to_bytes(&self) -> Vec<u8> {
        // Wide elements first keeps every tensor aligned.
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
            let entry = serde_json::json!({ "dtype": stored.dtype, "shape": stored.shape, "data_offsets": [start, end] });
            header.insert((*name).clone(), entry);
        }
        let mut header = serde_json::Value::Object(header).to_string().into_bytes();
        header.resize(header.len().next_multiple_of(8), b' ');

        let mut file = Vec::with_capacity(8 + header.len() + end);
        file.extend((header.len() as u64).to_le_bytes());
        file.extend(header);
        order.iter().for_each(|(_, stored)| file.extend(&stored.bytes));
        file
    }

    /// Whether there is no tensor at all.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// Of each network, by the first word of its tensors' names: how many tensors, and how many numbers in them.
    pub fn networks(&self) -> Vec<(&str, usize, usize)> {
        let mut networks: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
        for (name, stored) in &self.tensors {
            let (tensors, numbers) =
                networks.entry(name.split('.').next().unwrap_or(name)).or_default();
            (*tensors, *numbers) =
                (*tensors + 1, *numbers + stored.shape.iter().product::<usize>());
        }
        networks.into_iter().map(|(name, (tensors, numbers))| (name, tensors, numbers)).collect()
    }

    /// The shape of a tensor, if it has `D` axes.
    pub fn shape<const D: usize>(&self, name: &str) -> Result<[usize; D]> {
        let stored =
            self.tensors.get(name).ok_or_else(|| ModelError::Missing { name: name.to_owned() })?;
        let wrong =
            |_| ModelError::Axes { name: name.to_owned(), seen: stored.shape.clone(), expected: D };
        stored.shape.clone().try_into().map_err(wrong)
    }

    /// Takes in all parameters and state of a network, as `prefix.layer.name`.
    pub fn store<B: Backend, M: Module<B>>(&mut self, prefix: &str, network: &M) -> Result<()> {
        let mut storer = Storer { path: Path::new(prefix), weights: self, error: None };
        network.visit(&mut storer);
        storer.error.map_or(Ok(()), Err)
    }

    /// Fills a network with the tensors stored as `prefix.layer.name`: all of them, and nothing is left over.
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
        let mine = format!("{prefix}.");
        let left = self.tensors.keys().find(|name| {
            name.starts_with(&mine)
                && !name.ends_with(BATCHES_TRACKED)
                && !loader.used.contains(*name)
        });
        left.map_or(Ok(network), |name| Err(ModelError::Unexpected { name: name.clone() }))
    }

    /// Adds PyTorch's count of training batches beside each running variance. Nothing reads it here.
    pub fn count_batches(&mut self, batches: u64) {
        let names: Vec<_> =
            self.tensors.keys().filter_map(|name| name.strip_suffix(".running_var")).collect();
        let names: Vec<_> =
            names.into_iter().map(|name| format!("{name}{BATCHES_TRACKED}")).collect();
        let stored =
            Stored { dtype: Dtype::I64, shape: vec![], bytes: batches.to_le_bytes().to_vec() };
        self.tensors.extend(names.into_iter().map(|name| (name, stored.clone())));
    }

    /// Puts a tensor of any shape.
    pub fn put(&mut self, name: impl Into<String>, shape: &[usize], values: &[f32]) {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.tensors
            .insert(name.into(), Stored { dtype: Dtype::F32, shape: shape.to_vec(), bytes });
    }

    /// The values of a tensor of the given shape.
    pub fn get(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let stored =
            self.tensors.get(name).ok_or_else(|| ModelError::Missing { name: name.to_owned() })?;
        if stored.shape != shape {
            let (seen, expected) = (stored.shape.clone(), shape.to_vec());
            return Err(ModelError::Shape { name: name.to_owned(), seen, expected });
        }
        if stored.dtype != Dtype::F32 {
            let seen = stored.dtype.to_string();
            return Err(ModelError::Dtype { name: name.to_owned(), seen, expected: "F32" });
        }
        let (values, _) = stored.bytes.as_chunks::<4>();
        Ok(values.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
    }

    /// Names, less the prefix they begin with, and shapes of some tensors.
    pub fn shapes_under(&self, prefix: &str) -> Vec<(String, Vec<usize>)> {
        let under = self
            .tensors
            .iter()
            .filter_map(|(name, stored)| Some((name.strip_prefix(prefix)?, stored)));
        under.map(|(name, stored)| (name.to_owned(), stored.shape.clone())).collect()
    }
}

const BATCHES_TRACKED: &str = ".num_batches_tracked";

/// Where a walk over a network's layers is.
///
/// Enum variants leave no trace in a name.
#[derive(Clone, Debug)]
pub struct Path(Vec<String>);

impl Path {
    /// Starts at a network's prefix.
    pub fn new(prefix: &str) -> Self {
        Path(vec![prefix.to_owned()])
    }

    /// Goes down to a field, an element or a variant.
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

    /// The published name of the parameter here.
    pub fn name(&self) -> String {
        self.0.join(".")
    }
}

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
            Ok(values) => param.map(|old| {
                Tensor::from_data(TensorData::new(values, shape), self.device)
                    .set_require_grad(old.is_require_grad())
            }),
            Err(error) => {
                self.error.get_or_insert(error);
                param
            }
        }
    }
}

/// Copies a tensor's values to the host.
pub fn to_host<B: Backend, const D: usize>(tensor: Tensor<B, D>) -> Result<Vec<f32>> {
    let data =
        tensor.try_into_data().map_err(|error| ModelError::Execution(format!("{error:?}")))?;
    data.into_vec().map_err(|error| ModelError::Execution(format!("{error:?}")))
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
    fn stored_weights_come_back_and_their_bytes_never_change() {
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
    fn a_tensor_that_does_not_fit_is_named() {
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
            "load tensor `net.weight`: its shape is [3, 2], expected [3, 4]"
        );
        weights.put("net.extra", &[1], &[0.0]);
        assert_eq!(
            load(&weights, linear(2, 3)),
            "place tensor `net.extra` of the weights: no layer of this configuration has that name"
        );
        assert_eq!(
            load(&Weights::default(), linear(2, 3)),
            "find tensor `net.weight` in the weights: it is not there"
        );
    }
}
