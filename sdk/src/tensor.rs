//! Tensors: dimensions and row-major elements, converted between Rust values and bytes without copies where possible.
//!
//! Dimensions count elements, outermost first, as in ONNX: a batch of 8 color pictures may be `[8, 3, 224, 224]`, a scalar is `[]`. A
//! dimension may be 0. The number of elements is always the product of the dimensions.

use std::fmt;

use crate::Error;

/// The type of a tensor's elements, with the names of `wasi:nn`.
///
/// ```
/// use samovar_sdk::tensor::{Element, ElementType};
///
/// assert_eq!(f32::TYPE, ElementType::F32);
/// assert_eq!((ElementType::I64.size(), ElementType::Bf16.to_string()), (8, "bf16".to_owned()));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ElementType {
    /// 16-bit floats (IEEE 754 binary16).
    F16,
    /// bfloat16: the upper half of a 32-bit float.
    Bf16,
    /// 32-bit floats.
    F32,
    /// 64-bit floats.
    F64,
    /// Bytes, also used for ONNX's `int8` and `bool`.
    U8,
    /// 32-bit integers.
    I32,
    /// 64-bit integers.
    I64,
}

impl ElementType {
    /// Size of one element in bytes.
    pub const fn size(self) -> usize {
        match self {
            Self::U8 => 1,
            Self::F16 | Self::Bf16 => 2,
            Self::F32 | Self::I32 => 4,
            Self::F64 | Self::I64 => 8,
        }
    }
}

impl fmt::Display for ElementType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::F32 => "f32",
            Self::F64 => "f64",
            Self::U8 => "u8",
            Self::I32 => "i32",
            Self::I64 => "i64",
        })
    }
}

mod sealed {
    pub trait Sealed {}
}

/// A Rust type for elements: `f32`, `f64`, `u8`, `i32`, `i64`, and with the feature `half` also `half::f16` and `half::bf16`.
///
/// ```
/// use samovar_sdk::tensor::Element;
/// use samovar_sdk::{Error, Tensor};
///
/// fn row<T: Element>(elements: &[T]) -> Result<Tensor<T>, Error> {
///     Tensor::from_slice([1, elements.len() as u32], elements)
/// }
/// assert_eq!(row(&[1.0f64, 2.0])?.dimensions(), [1, 2]);
/// # Ok::<(), Error>(())
/// ```
pub trait Element: bytemuck::Pod + fmt::Debug + sealed::Sealed {
    /// The corresponding element type.
    const TYPE: ElementType;
}

macro_rules! elements {
    ($($rust:ty => $name:ident),*) => {$(
        impl sealed::Sealed for $rust {}
        impl Element for $rust {
            const TYPE: ElementType = ElementType::$name;
        }
    )*};
}

elements!(f32 => F32, f64 => F64, u8 => U8, i32 => I32, i64 => I64);
#[cfg(feature = "half")]
elements!(half::f16 => F16, half::bf16 => Bf16);

/// A tensor that can be an input of a graph.
///
/// Pass inputs of different types as `&dyn TensorData`: see [`Graph::compute`](crate::Graph::compute).
///
/// ```
/// use samovar_sdk::{Tensor, TensorData};
///
/// let tensor = Tensor::from_slice([2, 1], &[1i32, 256])?;
/// assert_eq!(tensor.bytes(), [1, 0, 0, 0, 0, 1, 0, 0]);
/// # Ok::<(), samovar_sdk::Error>(())
/// ```
pub trait TensorData {
    /// The size of each dimension, in elements, outermost first.
    fn dimensions(&self) -> &[u32];
    /// The type of the elements.
    fn element_type(&self) -> ElementType;
    /// The elements as bytes: row-major, little-endian.
    fn bytes(&self) -> &[u8];
}

impl<D: TensorData + ?Sized> TensorData for &D {
    fn dimensions(&self) -> &[u32] {
        (**self).dimensions()
    }

    fn element_type(&self) -> ElementType {
        (**self).element_type()
    }

    fn bytes(&self) -> &[u8] {
        (**self).bytes()
    }
}

/// Storage of a tensor's elements: a `Vec<T>` of the guest, or the bytes of an output, aligned for `T`.
#[derive(Clone)]
enum Storage<T> {
    Elements(Vec<T>),
    AlignedBytes(Vec<u8>),
}

/// A tensor that owns its elements.
///
/// ```
/// use samovar_sdk::Tensor;
///
/// let tensor = Tensor::from_vec([2, 3], vec![1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0])?;
/// assert_eq!(tensor.dimensions(), [2, 3]);
/// assert_eq!(tensor.as_slice()[1 * 3 + 2], 6.0); // row 1, column 2
/// # Ok::<(), samovar_sdk::Error>(())
/// ```
#[derive(Clone)]
pub struct Tensor<T> {
    dimensions: Vec<u32>,
    storage: Storage<T>,
}

impl<T: Element> Tensor<T> {
    /// Creates a tensor from `dimensions` and row-major `elements`, without a copy.
    ///
    /// # Errors
    /// Status 500 and `bad_tensor` if the product of the dimensions is not the number of elements.
    ///
    /// ```
    /// use samovar_sdk::Tensor;
    ///
    /// let error = Tensor::from_vec([2, 2], vec![0u8; 3]).unwrap_err();
    /// assert_eq!(error.message(), "dimensions [2, 2] need 4 elements, found 3");
    /// ```
    pub fn from_vec(dimensions: impl Into<Vec<u32>>, elements: Vec<T>) -> Result<Self, Error> {
        let dimensions = dimensions.into();
        check_len(&dimensions, elements.len())?;
        Ok(Self {
            dimensions,
            storage: Storage::Elements(elements),
        })
    }

    /// Creates a tensor from `dimensions` and a copy of the row-major `elements`; [`TensorView`] borrows them instead.
    ///
    /// # Errors
    /// Those of [`from_vec`](Self::from_vec).
    ///
    /// ```
    /// let scalar = samovar_sdk::Tensor::from_slice([], &[0.5f32])?;
    /// assert_eq!(scalar.as_slice(), [0.5]);
    /// # Ok::<(), samovar_sdk::Error>(())
    /// ```
    pub fn from_slice(dimensions: impl Into<Vec<u32>>, elements: &[T]) -> Result<Self, Error> {
        Self::from_vec(dimensions, elements.to_vec())
    }

    /// The size of each dimension, in elements, outermost first.
    pub fn dimensions(&self) -> &[u32] {
        &self.dimensions
    }

    /// Borrows the elements, row-major.
    pub fn as_slice(&self) -> &[T] {
        match &self.storage {
            Storage::Elements(elements) => elements,
            Storage::AlignedBytes(bytes) => bytemuck::cast_slice(bytes),
        }
    }

    /// Converts into the elements, row-major. Copies them if they come from an output and `T` is not `u8`.
    ///
    /// ```
    /// let tensor = samovar_sdk::Tensor::from_slice([2, 1], &[1i64, 2])?;
    /// assert_eq!(tensor.into_vec(), [1, 2]);
    /// # Ok::<(), samovar_sdk::Error>(())
    /// ```
    pub fn into_vec(self) -> Vec<T> {
        match self.storage {
            Storage::Elements(elements) => elements,
            Storage::AlignedBytes(bytes) => vec_from_bytes(bytes),
        }
    }

    /// Changes the dimensions without copying the elements.
    ///
    /// # Errors
    /// Those of [`from_vec`](Self::from_vec).
    ///
    /// ```
    /// let row = samovar_sdk::Tensor::from_slice([4], &[1u8, 2, 3, 4])?;
    /// assert_eq!(row.reshape([2, 2])?.dimensions(), [2, 2]);
    /// # Ok::<(), samovar_sdk::Error>(())
    /// ```
    pub fn reshape(mut self, dimensions: impl Into<Vec<u32>>) -> Result<Self, Error> {
        let dimensions = dimensions.into();
        check_len(&dimensions, self.as_slice().len())?;
        self.dimensions = dimensions;
        Ok(self)
    }

    /// A tensor from bytes that are known to fit `dimensions`.
    fn from_checked_bytes(dimensions: Vec<u32>, bytes: Vec<u8>) -> Self {
        let storage = if bytemuck::try_cast_slice::<u8, T>(&bytes).is_ok() {
            Storage::AlignedBytes(bytes)
        } else {
            Storage::Elements(vec_from_bytes(bytes))
        };
        Self {
            dimensions,
            storage,
        }
    }
}

impl<T: Element> TensorData for Tensor<T> {
    fn dimensions(&self) -> &[u32] {
        &self.dimensions
    }

    fn element_type(&self) -> ElementType {
        T::TYPE
    }

    fn bytes(&self) -> &[u8] {
        bytemuck::cast_slice(self.as_slice())
    }
}

impl<T: Element> fmt::Debug for Tensor<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensor<{}>{:?}", T::TYPE, self.dimensions)
    }
}

impl<T: Element> PartialEq for Tensor<T>
where
    T: PartialEq,
{
    fn eq(&self, other: &Self) -> bool {
        self.dimensions == other.dimensions && self.as_slice() == other.as_slice()
    }
}

/// A tensor that borrows its elements, for inputs without a copy in the guest.
///
/// ```
/// use samovar_sdk::TensorView;
///
/// let features = [0.5f32; 2048];
/// let view = TensorView::new([1, 2048], &features)?;
/// # let _ = view;
/// # Ok::<(), samovar_sdk::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct TensorView<'a, T> {
    dimensions: Vec<u32>,
    elements: &'a [T],
}

impl<'a, T: Element> TensorView<'a, T> {
    /// Creates a tensor from `dimensions` and borrowed row-major `elements`.
    ///
    /// # Errors
    /// Those of [`Tensor::from_vec`].
    pub fn new(dimensions: impl Into<Vec<u32>>, elements: &'a [T]) -> Result<Self, Error> {
        let dimensions = dimensions.into();
        check_len(&dimensions, elements.len())?;
        Ok(Self {
            dimensions,
            elements,
        })
    }
}

impl<T: Element> TensorData for TensorView<'_, T> {
    fn dimensions(&self) -> &[u32] {
        &self.dimensions
    }

    fn element_type(&self) -> ElementType {
        T::TYPE
    }

    fn bytes(&self) -> &[u8] {
        bytemuck::cast_slice(self.elements)
    }
}

/// A tensor whose element type is only known at run time, such as an output.
///
/// ```
/// use samovar_sdk::tensor::{ElementType, RawTensor};
/// use samovar_sdk::TensorData;
///
/// // Two bfloat16 numbers, which Rust has no type for: 1.0 and -2.0.
/// let raw = RawTensor::new([2], ElementType::Bf16, vec![0x80, 0x3f, 0x00, 0xc0])?;
/// assert_eq!((raw.dimensions(), raw.bytes().len()), (&[2][..], 4));
/// # Ok::<(), samovar_sdk::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct RawTensor {
    dimensions: Vec<u32>,
    element_type: ElementType,
    bytes: Vec<u8>,
}

impl RawTensor {
    /// Creates a tensor from `bytes`: row-major, little-endian elements of `element_type` that fit `dimensions`.
    ///
    /// # Errors
    /// Status 500 and `bad_tensor` if the bytes are not a whole number of elements, or not as many as the dimensions need.
    ///
    /// ```
    /// use samovar_sdk::tensor::{ElementType, RawTensor};
    ///
    /// let error = RawTensor::new([2], ElementType::F32, vec![0; 7]).unwrap_err();
    /// assert_eq!(error.message(), "7 bytes are not a whole number of f32 elements");
    /// ```
    pub fn new(
        dimensions: impl Into<Vec<u32>>,
        element_type: ElementType,
        bytes: Vec<u8>,
    ) -> Result<Self, Error> {
        let dimensions = dimensions.into();
        let size = element_type.size();
        if !bytes.len().is_multiple_of(size) {
            return Err(bad_tensor(format!(
                "{} bytes are not a whole number of {element_type} elements",
                bytes.len()
            )));
        }
        check_len(&dimensions, bytes.len() / size)?;
        Ok(Self {
            dimensions,
            element_type,
            bytes,
        })
    }

    #[cfg(not(target_family = "wasm"))]
    pub(crate) fn unchecked(
        dimensions: Vec<u32>,
        element_type: ElementType,
        bytes: Vec<u8>,
    ) -> Self {
        Self {
            dimensions,
            element_type,
            bytes,
        }
    }

    /// Converts into a tensor with elements of type `T`, without a copy if the bytes are aligned.
    ///
    /// # Errors
    /// Status 500 and `bad_tensor` if the elements have another type.
    ///
    /// ```
    /// use samovar_sdk::tensor::{ElementType, RawTensor};
    ///
    /// let raw = RawTensor::new([1], ElementType::I32, vec![7, 0, 0, 0])?;
    /// assert_eq!(raw.clone().into_typed::<i32>()?.as_slice(), [7]);
    /// assert_eq!(raw.into_typed::<f32>().unwrap_err().message(), "the tensor holds i32, wanted f32");
    /// # Ok::<(), samovar_sdk::Error>(())
    /// ```
    pub fn into_typed<T: Element>(self) -> Result<Tensor<T>, Error> {
        if self.element_type != T::TYPE {
            return Err(bad_tensor(format!(
                "the tensor holds {}, wanted {}",
                self.element_type,
                T::TYPE
            )));
        }
        Ok(Tensor::from_checked_bytes(self.dimensions, self.bytes))
    }

    /// The elements as bytes: row-major, little-endian.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

impl TensorData for RawTensor {
    fn dimensions(&self) -> &[u32] {
        &self.dimensions
    }

    fn element_type(&self) -> ElementType {
        self.element_type
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

fn vec_from_bytes<T: Element>(bytes: Vec<u8>) -> Vec<T> {
    // Only a `Vec` of the same alignment may change its type in place: its memory is freed by that alignment.
    match bytemuck::try_cast_vec(bytes) {
        Ok(elements) => elements,
        Err((_, bytes)) => bytemuck::pod_collect_to_vec(&bytes),
    }
}

fn check_len(dimensions: &[u32], len: usize) -> Result<(), Error> {
    let wanted = dimensions
        .iter()
        .try_fold(1usize, |all, &size| all.checked_mul(size as usize));
    if wanted == Some(len) {
        return Ok(());
    }
    let wanted = wanted.map_or_else(
        || "more than memory holds".to_owned(),
        |wanted| wanted.to_string(),
    );
    Err(bad_tensor(format!(
        "dimensions {dimensions:?} need {wanted} elements, found {len}"
    )))
}

fn bad_tensor(message: String) -> Error {
    Error::new(500, "bad_tensor", message)
}

#[cfg(feature = "ndarray")]
mod nd {
    use ndarray::{ArrayBase, ArrayD, Data, Dimension, IxDyn};

    use super::{Element, Tensor, bad_tensor};
    use crate::Error;

    impl<T: Element> Tensor<T> {
        /// Creates a tensor with the shape and the elements of an array. Copies the elements only if they are not row-major.
        ///
        /// # Errors
        /// Status 500 and `bad_tensor` if an axis is longer than `u32::MAX`.
        ///
        /// ```
        /// use ndarray::array;
        /// use samovar_sdk::Tensor;
        ///
        /// let tensor = Tensor::from_array(array![[1.0f32, 2.0], [3.0, 4.0], [5.0, 6.0]])?;
        /// assert_eq!(tensor.dimensions(), [3, 2]);
        /// # Ok::<(), samovar_sdk::Error>(())
        /// ```
        pub fn from_array<S: Data<Elem = T>, D: Dimension>(
            array: ArrayBase<S, D>,
        ) -> Result<Self, Error> {
            let dimensions = array
                .shape()
                .iter()
                .map(|&size| u32::try_from(size))
                .collect::<Result<Vec<_>, _>>();
            let dimensions = dimensions
                .map_err(|_| bad_tensor(format!("an axis of {:?} is over u32", array.shape())))?;
            let elements = if array.is_standard_layout() {
                let array = array.into_owned();
                let len = array.len();
                match array.into_raw_vec_and_offset() {
                    (elements, None | Some(0)) if elements.len() == len => elements,
                    (elements, offset) => {
                        let start = offset.unwrap_or(0);
                        elements[start..start + len].to_vec()
                    }
                }
            } else {
                array.iter().copied().collect()
            };
            Self::from_vec(dimensions, elements)
        }

        /// Converts into an array with the tensor's shape.
        ///
        /// # Errors
        /// None for tensors of the SDK, because their elements always fit their dimensions.
        ///
        /// ```
        /// use samovar_sdk::Tensor;
        ///
        /// let array = Tensor::from_slice([1, 2], &[0.25f32, 0.75])?.into_array()?;
        /// assert_eq!(array[[0, 1]], 0.75);
        /// # Ok::<(), samovar_sdk::Error>(())
        /// ```
        pub fn into_array(self) -> Result<ArrayD<T>, Error> {
            let shape: Vec<usize> = self.dimensions.iter().map(|&size| size as usize).collect();
            Ok(ArrayD::from_shape_vec(IxDyn(&shape), self.into_vec())?)
        }
    }

    #[cfg(test)]
    mod tests {
        use ndarray::array;

        use super::*;

        #[test]
        fn arrays_go_there_and_back() -> Result<(), Error> {
            let matrix = array![[1.0f32, 2.0, 3.0], [4.0, 5.0, 6.0]];
            let tensor = Tensor::from_array(matrix.clone())?;
            assert_eq!(tensor.dimensions(), [2, 3]);
            assert_eq!(tensor.into_array()?, matrix.clone().into_dyn());

            let turned = Tensor::from_array(matrix.t())?;
            assert_eq!(
                (turned.dimensions(), turned.as_slice()),
                (&[3, 2][..], &[1.0, 4.0, 2.0, 5.0, 3.0, 6.0][..])
            );

            let row = Tensor::from_array(matrix.slice_move(ndarray::s![1.., ..]))?;
            assert_eq!(
                (row.dimensions(), row.as_slice()),
                (&[1, 3][..], &[4.0, 5.0, 6.0][..])
            );
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vec_goes_in_and_out_without_a_copy() -> Result<(), Error> {
        let elements = vec![1i64, 2, 3, 4, 5, 6];
        let address = elements.as_ptr();
        let tensor = Tensor::from_vec([2, 3], elements)?;
        assert_eq!(tensor.bytes().as_ptr(), address.cast());
        assert_eq!(tensor.bytes().len(), 48);
        let elements = tensor.into_vec();
        assert_eq!(elements.as_ptr(), address);
        Ok(())
    }

    #[test]
    fn a_view_borrows() -> Result<(), Error> {
        let elements = [0.5f32, 1.5];
        let view = TensorView::new([1, 2], &elements)?;
        assert_eq!(view.bytes().as_ptr(), elements.as_ptr().cast());
        assert_eq!(view.element_type(), ElementType::F32);
        Ok(())
    }

    #[test]
    fn dimensions_must_hold_the_elements() {
        let error = Tensor::from_vec([2, 2], vec![1.0f32; 3]).expect_err("3 of 4");
        assert_eq!(
            error.message(),
            "dimensions [2, 2] need 4 elements, found 3"
        );
        assert!(Tensor::from_vec([u32::MAX, u32::MAX, u32::MAX], vec![1u8]).is_err());
        assert!(Tensor::from_vec([0, 5], Vec::<u8>::new()).is_ok());
        assert!(
            Tensor::from_vec([], vec![1u8]).is_ok(),
            "a scalar has no dimensions"
        );
    }

    #[test]
    fn raw_bytes_become_what_they_hold() -> Result<(), Error> {
        let bytes: Vec<u8> = [1.0f32, -2.0]
            .iter()
            .flat_map(|x| x.to_le_bytes())
            .collect();
        let raw = RawTensor::new([2], ElementType::F32, bytes)?;
        assert!(raw.clone().into_typed::<i32>().is_err());
        let tensor = raw.into_typed::<f32>()?;
        assert_eq!(tensor.as_slice(), [1.0, -2.0]);
        assert_eq!(tensor.into_vec(), [1.0, -2.0]);
        assert!(RawTensor::new([1], ElementType::I64, vec![0; 7]).is_err());
        Ok(())
    }

    #[cfg(feature = "half")]
    #[test]
    fn halves_are_elements() -> Result<(), Error> {
        let halves = [half::f16::from_f32(0.5), half::f16::from_f32(-2.0)];
        let view = TensorView::new([2], &halves)?;
        assert_eq!(
            (view.element_type(), view.bytes()),
            (ElementType::F16, &[0x00, 0x38, 0x00, 0xc0][..])
        );
        let raw = RawTensor::new([2], ElementType::Bf16, vec![0x80, 0x3f, 0x00, 0xc0])?;
        let tensor = raw.into_typed::<half::bf16>()?;
        let floats: Vec<f32> = tensor.as_slice().iter().map(|half| half.to_f32()).collect();
        assert_eq!(floats, [1.0, -2.0]);
        Ok(())
    }

    #[test]
    fn unaligned_bytes_are_read_too() {
        for len in 0..9usize {
            let elements: Vec<i64> = (0..len as i64).collect();
            let mut bytes = Vec::with_capacity(len * 8);
            bytes.extend_from_slice(bytemuck::cast_slice(&elements));
            assert_eq!(
                Tensor::<i64>::from_checked_bytes(vec![len as u32], bytes).as_slice(),
                elements
            );
        }
    }

    #[test]
    fn reshape_keeps_the_elements() -> Result<(), Error> {
        let tensor = Tensor::from_slice([6], &[1u8, 2, 3, 4, 5, 6])?;
        assert_eq!(tensor.clone().reshape([3, 2])?.dimensions(), [3, 2]);
        assert!(tensor.reshape([4]).is_err());
        Ok(())
    }
}
