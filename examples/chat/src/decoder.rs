//! The decoder: tokens in, how likely each next one is out, and what attention remembers kept on the host in between.

use samovar_sdk::graph::Inputs;
use samovar_sdk::{Error, Graph, HostTensor, TensorView};
use serde_json::Value;

/// The most tokens of one step: of a long prompt the graph gives logits for every token, and only the last are wanted.
const MAX_STEP: usize = 64;

/// A graph with the inputs and outputs of an exported decoder, and the sizes of its cache.
pub struct Decoder {
    graph: Graph,
    layers: usize,
    heads: u32,
    head_width: u32,
    context: usize,
}

/// One conversation's tokens so far, as attention remembers them: for each layer its keys and values, on the host.
pub struct Cache {
    tensors: Vec<HostTensor>,
    length: usize,
}

impl Decoder {
    /// The graph `default`, whose sizes a JSON file of the bundle has.
    pub fn load(path: &str) -> Result<Self, Error> {
        let sizes: Value = serde_json::from_slice(&std::fs::read(path)?)?;
        let size = |name: &str| {
            let found = sizes[name]
                .as_u64()
                .and_then(|size| u32::try_from(size).ok());
            found.ok_or_else(|| {
                Error::internal(format!(
                    "{path}: {name:?} is {}, wanted a size",
                    sizes[name]
                ))
            })
        };
        Ok(Self {
            graph: Graph::load("default")?,
            layers: size("layers")? as usize,
            heads: size("heads")?,
            head_width: size("head_width")?,
            context: size("context")? as usize,
        })
    }

    /// The most tokens that a prompt and its answer have together.
    pub fn context(&self) -> usize {
        self.context
    }

    /// A cache that remembers nothing.
    pub fn start(&self) -> Result<Cache, Error> {
        let nothing = TensorView::<f32>::new([1, self.heads, 0, self.head_width], &[])?;
        Ok(Cache {
            tensors: (0..2 * self.layers)
                .map(|_| HostTensor::new(&nothing))
                .collect(),
            length: 0,
        })
    }

    /// Reads more tokens, one at least, and gives the logits of what may follow the last.
    pub fn read(&self, cache: Cache, tokens: &[i64]) -> Result<(Cache, Vec<f32>), Error> {
        let mut steps = tokens.chunks(MAX_STEP);
        let first = steps
            .next()
            .ok_or_else(|| Error::internal("no token to read"))?;
        steps.try_fold(self.step(cache, first)?, |(cache, _), tokens| {
            self.step(cache, tokens)
        })
    }

    fn step(&self, cache: Cache, tokens: &[i64]) -> Result<(Cache, Vec<f32>), Error> {
        let length = cache.length + tokens.len();
        let places: Vec<i64> = (cache.length as i64..length as i64).collect();
        let mask = vec![1i64; length];
        let size = [1, tokens.len() as u32];
        let mut inputs = Inputs::new()
            .with("input_ids", &TensorView::new(size, tokens)?)
            .with(
                "attention_mask",
                &TensorView::new([1, length as u32], &mask)?,
            )
            .with("position_ids", &TensorView::new(size, &places)?);
        // What one step gives is what the next one takes: it never passes through this guest's memory.
        for (name, tensor) in self.names("past_key_values").zip(cache.tensors) {
            inputs = inputs.pass(&name, tensor);
        }
        let mut outputs = self.graph.run(inputs)?;
        let tensors = self.names("present").map(|name| outputs.take(&name));
        let tensors = tensors.collect::<Result<_, _>>()?;
        let logits = outputs.get::<f32>("logits")?;
        let width = logits.as_slice().len() / tokens.len();
        let last = logits.as_slice()[(tokens.len() - 1) * width..].to_vec();
        Ok((Cache { tensors, length }, last))
    }

    /// `past_key_values.0.key`, `past_key_values.0.value`, `past_key_values.1.key`, …
    fn names(&self, what: &str) -> impl Iterator<Item = String> {
        (0..self.layers)
            .flat_map(move |layer| ["key", "value"].map(|part| format!("{what}.{layer}.{part}")))
    }
}
