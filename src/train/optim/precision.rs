//! The parameters of a network for a pass in another precision than their own.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::backend::AutodiffBackend;
use burn::tensor::ops::FloatTensor;
use burn::tensor::{Tensor, TensorPrimitive};

use super::{NetBackend, TrainBackend};
use crate::models::Precision;
use crate::models::weights::Path;

/// Returns a network for a pass in `precision`. On a GPU its parameters are cast at once, and have
/// their own gradients; elsewhere each layer casts its parameters itself.
///
/// Parameters of normalisations stay in single precision, and so does `kept`. Names begin with
/// `prefix`.
pub fn in_precision<A: TrainBackend, M: Module<A>>(
    prefix: &str,
    network: &M,
    precision: Precision,
    kept: &str,
) -> M {
    if precision == Precision::F32 || A::InnerBackend::IS_CPU {
        return network.clone();
    }
    let is_cast = |path: &Path, in_norm: bool, is_trained: bool| {
        is_trained && !in_norm && path.name() != kept
    };
    let mut collected =
        Layers::<A, _> { path: Path::new(prefix), in_norm: 0, is_cast, found: vec![] };
    network.visit(&mut collected);
    let cast = A::InnerBackend::cast_all(collected.found, precision.dtype().into());
    let mut replaced = Layers::<A, _> { path: Path::new(prefix), in_norm: 0, is_cast, found: cast };
    replaced.found.reverse();
    network.clone().map(&mut replaced)
}

/// Collects or replaces the parameters of layers that are no normalisations.
struct Layers<A: AutodiffBackend, F> {
    path: Path,
    /// The number of normalisations around the current module.
    in_norm: usize,
    is_cast: F,
    found: Vec<FloatTensor<A::InnerBackend>>,
}

impl<A: AutodiffBackend, F: Fn(&Path, bool, bool) -> bool> Layers<A, F> {
    fn enter(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
        self.in_norm += usize::from(container.contains("BatchNorm2d"));
    }

    fn exit(&mut self, container: &str) {
        self.path.exit(container);
        self.in_norm -= usize::from(container.contains("BatchNorm2d"));
    }
}

impl<A: AutodiffBackend, F: Fn(&Path, bool, bool) -> bool> ModuleVisitor<A> for Layers<A, F> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.enter(name, container);
    }

    fn exit_module(&mut self, _: &str, container: &str) {
        self.exit(container);
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<A, D>>) {
        if (self.is_cast)(&self.path, self.in_norm > 0, param.is_require_grad()) {
            self.found.push(param.val().inner().into_primitive().tensor());
        }
    }
}

impl<A: AutodiffBackend, F: Fn(&Path, bool, bool) -> bool> ModuleMapper<A> for Layers<A, F> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.enter(name, container);
    }

    fn exit_module(&mut self, _: &str, container: &str) {
        self.exit(container);
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<A, D>>) -> Param<Tensor<A, D>> {
        if !(self.is_cast)(&self.path, self.in_norm > 0, param.is_require_grad()) {
            return param;
        }
        let value = self.found.pop().expect("each of these parameters was cast");
        param.map(|_| {
            let value = Tensor::from_primitive(TensorPrimitive::Float(value));
            Tensor::from_inner(value).require_grad()
        })
    }
}
