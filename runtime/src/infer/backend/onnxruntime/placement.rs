//! Which nodes of a model ONNX Runtime leaves on the CPU, read from its log: it has no call that tells.

/// Operators that shapes are reckoned with. The library has kernels of them for cards, so where it leaves such a node on
/// the CPU, it is one that works on a shape, which the CPU needs anyway.
const OF_SHAPES: &[&str] = &[
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
/// So many of them are named.
const NAMED: usize = 5;

/// What the log has said so far.
#[derive(Debug, Default)]
pub(super) struct Placements {
    /// Whether the lines that come are nodes on the CPU.
    listed: bool,
    all: bool,
    /// Each as `Op (name)`.
    nodes: Vec<String>,
}

impl Placements {
    /// Takes a line of the log.
    pub fn hear(&mut self, line: &str) {
        let line = line.trim();
        if let Some((before, place)) = line.split_once("laced on [") {
            self.listed = place.starts_with("CPUExecutionProvider]");
            self.all |= self.listed && before.starts_with("All nodes");
        } else if self.listed && line.ends_with(')') && line.contains(" (") {
            self.nodes.push(line.to_owned());
        } else {
            self.listed = false;
        }
    }

    /// Why a model with these nodes on the CPU does not count as one that runs on a card; `None` when they only reckon
    /// shapes.
    pub fn refusal(&self) -> Option<String> {
        if self.all {
            return Some("the card has kernels for none of its operators".into());
        }
        let of_shapes = |node: &&String| {
            let op = node.split(' ').next().unwrap_or_default();
            OF_SHAPES.contains(&op)
        };
        let rest: Vec<&str> = self
            .nodes
            .iter()
            .filter(|node| !of_shapes(node))
            .map(String::as_str)
            .collect();
        if rest.is_empty() {
            return None;
        }
        let more = match rest.len().saturating_sub(NAMED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let named = &rest[..rest.len().min(NAMED)];
        Some(format!(
            "the card has no kernel for {}{more}",
            named.join(", ")
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::Placements;

    fn heard(lines: &[&str]) -> Placements {
        let mut placements = Placements::default();
        lines.iter().for_each(|line| placements.hear(line));
        placements
    }

    #[test]
    fn nodes_of_shapes_are_no_reason() {
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
            "the card has no kernel for StringNormalizer (/words), Unique ()"
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
