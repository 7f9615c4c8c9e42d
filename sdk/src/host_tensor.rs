//! Tensors that stay on the host: outputs that become inputs without being copied into the guest.

use std::fmt;

use crate::Error;
use crate::nn;
use crate::tensor::{Element, ElementType, RawTensor, Tensor, TensorData};

/// A tensor on the host: an output taken with [`Outputs::take`](crate::graph::Outputs::take), or data copied with
/// [`HostTensor::new`].
///
/// [`Inputs::pass`](crate::graph::Inputs::pass) passes it to a graph without copying its elements. Use it for the state of a recurrent network
/// or the key-value cache of a decoder:
///
/// ```no_run
/// use samovar_sdk::graph::Inputs;
/// use samovar_sdk::{Error, Graph, HostTensor, Tensor};
///
/// /// One step: reads the answer, hands the state on unread.
/// fn step(graph: &Graph, state: HostTensor, sample: &Tensor<f32>) -> Result<(f32, HostTensor), Error> {
///     let inputs = Inputs::new().with("input", sample).pass("state", state);
///     let mut outputs = graph.run(inputs)?;
///     let state = outputs.take("new_state")?;
///     let answer = outputs.get::<f32>("output")?.as_slice()[0];
///     Ok((answer, state))
/// }
/// # let _ = step;
/// ```
///
/// Such tensors count against the replica's memory limit until they are dropped or passed to a graph.
pub struct HostTensor {
    /// Describes the tensor in errors.
    what: String,
    inner: nn::Held,
}

impl HostTensor {
    /// Copies a tensor to the host, for example an initial state.
    ///
    /// ```
    /// use samovar_sdk::tensor::ElementType;
    /// use samovar_sdk::{HostTensor, Tensor};
    ///
    /// let state = HostTensor::new(&Tensor::from_vec([2, 1, 128], vec![0f32; 256])?);
    /// assert_eq!((state.dimensions(), state.element_type()), (vec![2, 1, 128], ElementType::F32));
    /// # Ok::<(), samovar_sdk::Error>(())
    /// ```
    pub fn new(tensor: &(impl TensorData + ?Sized)) -> Self {
        Self {
            what: "a tensor on the host".to_owned(),
            inner: nn::hold(tensor),
        }
    }

    pub(crate) fn from_host(what: String, inner: nn::Held) -> Self {
        Self { what, inner }
    }

    pub(crate) fn into_host(self) -> nn::Held {
        self.inner
    }

    /// The size of each dimension, in elements, outermost first.
    pub fn dimensions(&self) -> Vec<u32> {
        nn::dimensions(&self.inner)
    }

    /// The type of the elements.
    pub fn element_type(&self) -> ElementType {
        nn::element_type(&self.inner)
    }

    /// Copies the elements into the guest.
    ///
    /// # Errors
    /// Status 500 and `bad_tensor` if the elements are not of type `T`; the message names the tensor.
    ///
    /// ```
    /// use samovar_sdk::{HostTensor, Tensor};
    ///
    /// let tensor = HostTensor::new(&Tensor::from_slice([2], &[1i64, 2])?);
    /// assert_eq!(tensor.read::<i64>()?.as_slice(), [1, 2]);
    /// assert_eq!(tensor.read::<f32>().unwrap_err().code(), "bad_tensor");
    /// # Ok::<(), samovar_sdk::Error>(())
    /// ```
    pub fn read<T: Element>(&self) -> Result<Tensor<T>, Error> {
        let typed = self.raw().and_then(RawTensor::into_typed);
        typed.map_err(|error| about(&self.what, &error))
    }

    /// Copies the elements into the guest, whatever their type is.
    ///
    /// # Errors
    /// Status 500 and `bad_tensor` if the host returned bytes that do not fit the dimensions, which would be a bug of the host.
    pub fn raw(&self) -> Result<RawTensor, Error> {
        nn::read(&self.inner).map_err(|error| about(&self.what, &error))
    }
}

impl fmt::Debug for HostTensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HostTensor({})", self.what)
    }
}

/// Adds a description of the tensor to an error.
pub(crate) fn about(what: &str, error: &Error) -> Error {
    Error::new(error.status(), error.code(), format!("{what}: {error}"))
}
