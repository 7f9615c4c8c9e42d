//! Which nodes of a model ONNX Runtime places on the CPU. Read from its log, because it has no API for it.

/// Operators that compute shapes. The library has GPU kernels for them, so a node that it places on the CPU works on a shape, which
/// the CPU needs anyway.
const SHAPE_OPERATORS: &[&str] = &[
    "Add",
    "And",
    "Cast",
    "Ceil",
    "Concat",
    "Constant",
    "ConstantOfShape",
    "Div",
    "Equal",
    "Expand",
    "Flatten",
    "Floor",
    "Gather",
    "Greater",
    "GreaterOrEqual",
    "Identity",
    "Less",
    "LessOrEqual",
    "Max",
    "Min",
    "Mod",
    "Mul",
    "Neg",
    "Not",
    "Or",
    "Range",
    "ReduceMax",
    "ReduceMin",
    "ReduceProd",
    "ReduceSum",
    "Reshape",
    "Shape",
    "Size",
    "Slice",
    "Split",
    "Squeeze",
    "Sub",
    "Transpose",
    "Unsqueeze",
    "Where",
];
/// Most nodes that an error names.
const MAX_NAMED: usize = 5;

/// What the log has shown so far.
#[derive(Debug, Default)]
pub(in crate::infer::backend::onnxruntime) struct Placements {
    /// The next lines are nodes on the CPU.
    in_cpu_list: bool,
    /// All nodes are on the CPU.
    all: bool,
    /// Nodes on the CPU, as `Op (name)`.
    nodes: Vec<String>,
}

impl Placements {
    /// Reads a line of the log.
    pub fn record(&mut self, line: &str) {
        let line = line.trim();
        if let Some((before, place)) = line.split_once("laced on [") {
            self.in_cpu_list = place.starts_with("CPUExecutionProvider]");
            self.all |= self.in_cpu_list && before.starts_with("All nodes");
        } else if self.in_cpu_list && line.ends_with(')') && line.contains(" (") {
            self.nodes.push(line.to_owned());
        } else {
            self.in_cpu_list = false;
        }
    }

    /// Why a model with these nodes on the CPU does not count as running on a GPU; `None` if they only compute shapes.
    pub fn refusal(&self) -> Option<String> {
        if self.all {
            return Some("the GPU has kernels for none of its operators".into());
        }
        let computes_shapes = |node: &&String| {
            let op = node.split(' ').next().unwrap_or_default();
            SHAPE_OPERATORS.contains(&op)
        };
        let rest: Vec<&str> = self
            .nodes
            .iter()
            .filter(|node| !computes_shapes(node))
            .map(String::as_str)
            .collect();
        if rest.is_empty() {
            return None;
        }
        let more = match rest.len().saturating_sub(MAX_NAMED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let named = &rest[..rest.len().min(MAX_NAMED)];
        Some(format!(
            "the GPU has no kernel for {}{more}",
            named.join(", ")
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::Placements;

    fn heard(lines: &[&str]) -> Placements {
        let mut placements = Placements::default();
        lines.iter().for_each(|line| placements.record(line));
        placements
    }

    #[test]
    fn nodes_computes_shapes_are_no_reason() {
        let lines = [
            "Node placements",
            " Node(s) placed on [CPUExecutionProvider]. Number of nodes: 2",
            "  Shape (/shape)",
            "  Gather (/gather)",
            " Node(s) placed on [CUDAExecutionProvider]. Number of nodes: 1",
            "  MatMul (/product)",
        ];
        assert_eq!(heard(&lines).refusal(), None);
        assert_eq!(heard(&lines).nodes.len(), 2);
    }

    #[test]
    fn others_are_named() {
        let why = heard(&[
            " Node(s) placed on [CUDAExecutionProvider]. Number of nodes: 1",
            "  MatMul (/product)",
            " Node(s) placed on [CPUExecutionProvider]. Number of nodes: 3",
            "  Shape (/shape)",
            "  StringNormalizer (/words)",
            "  Unique ()",
            "Session successfully initialized.",
            "  Det (/later)",
        ]);
        let why = why.refusal().unwrap();
        assert_eq!(
            why,
            "the GPU has no kernel for StringNormalizer (/words), Unique ()"
        );
        let many: Vec<String> = (0..9).map(|n| format!("  Unique (/{n})")).collect();
        let mut lines = vec![" Node(s) placed on [CPUExecutionProvider]. Number of nodes: 9"];
        lines.extend(many.iter().map(String::as_str));
        assert!(heard(&lines).refusal().unwrap().ends_with(" and 4 more"));
    }

    #[test]
    fn a_model_that_is_wholly_on_the_cpu_is_refused() {
        let all = " All nodes placed on [CPUExecutionProvider]. Number of nodes: 1";
        assert!(heard(&[all]).refusal().unwrap().contains("none of its"));
    }
}
