//! Sorts the stages of a pipeline: every stage comes after its inputs.

use crate::pipeline::fault::Faults;
use crate::pipeline::spec::PipelineSpec;

/// Returns the indices of the stages in execution order. Reports cycles.
pub(super) fn order(faults: &mut Faults, spec: &PipelineSpec) -> Vec<usize> {
    let mut search = Search { spec, trail: Vec::new(), order: Vec::new(), cycles: Vec::new() };
    for stage in 0..spec.stages.len() {
        search.visit(stage);
    }
    for cycle in search.cycles {
        let names: Vec<&str> =
            cycle.iter().chain(cycle.first()).map(|i| spec.stages[*i].0.as_str()).collect();
        faults.at_key(
            &["stages".to_string(), names[0].to_string()],
            format!("the stages form a cycle: {}", names.join(" -> ")),
            Some("a stage cannot wait for itself: remove one of these inputs".into()),
        );
    }
    search.order
}

/// A depth-first search over the inputs of stages.
struct Search<'a> {
    spec: &'a PipelineSpec,
    /// The path from the first stage to the current one.
    trail: Vec<usize>,
    /// Finished stages, inputs first.
    order: Vec<usize>,
    /// Stages that wait for themselves.
    cycles: Vec<Vec<usize>>,
}

impl Search<'_> {
    fn visit(&mut self, stage: usize) {
        // A stage that is met again while its own inputs are visited is part of a cycle.
        if let Some(start) = self.trail.iter().position(|other| *other == stage) {
            self.cycles.push(self.trail[start..].to_vec());
            return;
        }
        if self.order.contains(&stage) {
            return;
        }
        self.trail.push(stage);
        let spec = self.spec;
        for input in spec.stages[stage].1.inputs() {
            if let Some(input) = spec.stages.iter().position(|(name, _)| name == input.stage) {
                self.visit(input);
            }
        }
        self.trail.pop();
        self.order.push(stage);
    }
}
