//! The network: how likely each piece of audio is speech, given all that came before.

use samovar_sdk::graph::Inputs;
use samovar_sdk::{Error, Graph, HostTensor, TensorView};

/// Samples of one piece: 32 ms.
pub const FRAME: usize = 512;
/// Samples of the piece before that the network sees once more.
const CONTEXT: usize = 64;
/// Two vectors of the recurrent layer.
const STATE: [u32; 3] = [2, 1, 128];

/// The network and what it remembers of one stream of audio.
pub struct Detector {
    graph: Graph,
    /// Stays on the host; `None` after an inference that failed.
    state: Option<HostTensor>,
    /// The end of the piece before, then the piece.
    heard: [f32; CONTEXT + FRAME],
}

impl Detector {
    /// A detector that has heard nothing.
    pub fn new(graph: Graph) -> Result<Self, Error> {
        let zeros = [0f32; 2 * 128];
        Ok(Self {
            graph,
            state: Some(HostTensor::new(&TensorView::new(STATE, &zeros)?)),
            heard: [0.0; CONTEXT + FRAME],
        })
    }

    // ANCHOR: state
    /// How likely the next piece is speech.
    pub fn hear(&mut self, frame: &[f32; FRAME]) -> Result<f32, Error> {
        let state = self.state.take();
        let state = state.ok_or_else(|| Error::internal("an inference before this one failed"))?;
        self.heard.copy_within(FRAME.., 0);
        self.heard[CONTEXT..].copy_from_slice(frame);
        let input = TensorView::new([1, (CONTEXT + FRAME) as u32], &self.heard)?;
        let inputs = Inputs::new().with("input", &input).pass("state", state);
        let mut outputs = self.graph.run(inputs)?;
        self.state = Some(outputs.take("stateN")?);
        let probability = outputs.get::<f32>("output")?;
        let probability = probability.as_slice().first().copied();
        probability.ok_or_else(|| Error::internal("the network gave no probability"))
    }
    // ANCHOR_END: state
}
