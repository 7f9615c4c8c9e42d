//! Tensors of guests.
//!
//! The constructor of wasi-nn cannot fail, so a tensor whose data does not match its dimensions is accepted, and refused in a run.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use wasmtime::component::{Linker, Resource, ResourceType};

use super::NnView;
use super::bindings::tensor::TensorType;
use crate::infer::backend::tensor::{Data, ElementType, Place, Tensor};
use crate::permits::Owner;

impl From<TensorType> for ElementType {
    fn from(ty: TensorType) -> Self {
        match ty {
            TensorType::Fp16 => Self::Fp16,
            TensorType::Fp32 => Self::Fp32,
            TensorType::Fp64 => Self::Fp64,
            TensorType::Bf16 => Self::Bf16,
            TensorType::U8 => Self::U8,
            TensorType::I32 => Self::I32,
            TensorType::I64 => Self::I64,
        }
    }
}

impl From<ElementType> for TensorType {
    fn from(ty: ElementType) -> Self {
        match ty {
            ElementType::Fp16 => Self::Fp16,
            ElementType::Fp32 => Self::Fp32,
            ElementType::Fp64 => Self::Fp64,
            ElementType::Bf16 => Self::Bf16,
            ElementType::U8 => Self::U8,
            ElementType::I32 => Self::I32,
            ElementType::I64 => Self::I64,
        }
    }
}

/// A tensor that a guest holds. Its elements stay where the backend left them until the guest reads them.
pub struct GuestTensor(Arc<Tensor>);

impl GuestTensor {
    pub(super) fn new(tensor: Tensor) -> Self {
        Self(Arc::new(tensor))
    }

    /// The tensor itself. Copies it only if the guest is reading it.
    pub(super) fn into_inner(self) -> Tensor {
        Arc::unwrap_or_clone(self.0)
    }

    /// Bytes charged to the replica.
    pub(super) fn charged_bytes(&self) -> u64 {
        charged_bytes(&self.0)
    }
}

/// Bytes of a tensor that are charged to its replica: data and dimensions.
pub(super) fn charged_bytes(tensor: &Tensor) -> u64 {
    (tensor.data.bytes() + 4 * tensor.dims.len()) as u64
}

/// The elements of a tensor: in this process, or to be fetched from an engine or GPU.
enum Elements {
    Local(Bytes),
    Remote(BoxFuture<'static, Result<Vec<u8>, String>>),
}

/// Borrows the elements of a tensor, which it keeps alive, while they are copied into a guest.
struct HostBorrow(Arc<Tensor>);

impl AsRef<[u8]> for HostBorrow {
    fn as_ref(&self) -> &[u8] {
        match self.0.data.read() {
            Ok(Cow::Borrowed(bytes)) => bytes,
            // `data` creates this only for elements that can be borrowed.
            _ => &[],
        }
    }
}

impl NnView<'_> {
    fn new_tensor(
        &mut self,
        dims: Vec<u32>,
        ty: TensorType,
        data: Vec<u8>,
    ) -> wasmtime::Result<Resource<GuestTensor>> {
        let tensor = Tensor {
            ty: ty.into(),
            dims,
            data: Data::Bytes(data),
        };
        self.ctx.charge(charged_bytes(&tensor))?;
        Ok(self.table.push(GuestTensor::new(tensor))?)
    }

    fn dimensions(&self, tensor: &Resource<GuestTensor>) -> wasmtime::Result<Vec<u32>> {
        Ok(self.table.get(tensor)?.0.dims.clone())
    }

    fn ty(&self, tensor: &Resource<GuestTensor>) -> wasmtime::Result<TensorType> {
        Ok(self.table.get(tensor)?.0.ty.into())
    }

    /// The elements. They are copied once: from where the backend left them into the guest.
    fn data(&self, tensor: &Resource<GuestTensor>) -> wasmtime::Result<Elements> {
        let tensor = &self.table.get(tensor)?.0;
        if let Data::Kept(kept) = &tensor.data {
            if let Some(fetched) = kept.fetched() {
                return Ok(Elements::Remote(fetched));
            }
            if kept.place() != Place::Host {
                // A GPU may be busy for as long as a run takes, and this thread has others to serve.
                let owner = Owner::of(&self.ctx.metrics);
                let fetched = self.ctx.store.fetch(owner, tensor.clone());
                return Ok(Elements::Remote(fetched.boxed()));
            }
        }
        let read = tensor.data.read();
        Ok(Elements::Local(
            match read.map_err(wasmtime::Error::msg)? {
                Cow::Borrowed(_) => Bytes::from_owner(HostBorrow(tensor.clone())),
                Cow::Owned(bytes) => bytes.into(),
            },
        ))
    }

    fn drop_tensor(&mut self, tensor: Resource<GuestTensor>) -> wasmtime::Result<()> {
        let tensor = self.table.delete(tensor)?;
        self.ctx.refund(tensor.charged_bytes());
        Ok(())
    }
}

/// Adds `wasi:nn/tensor` to a linker. Written by hand, because generated bindings would copy `data` once more.
pub(super) fn add_to_linker<T: Send + 'static>(
    linker: &mut Linker<T>,
    view: fn(&mut T) -> NnView<'_>,
) -> wasmtime::Result<()> {
    type Tensors = Resource<GuestTensor>;
    let mut tensors = linker.instance("wasi:nn/tensor@0.2.0-rc-2024-10-28")?;
    let ty = ResourceType::host::<GuestTensor>();
    tensors.resource("tensor", ty, move |mut store, rep| {
        view(store.data_mut()).drop_tensor(Resource::new_own(rep))
    })?;
    tensors.func_wrap(
        "[constructor]tensor",
        move |mut store, (dims, ty, data): (Vec<u32>, TensorType, Vec<u8>)| {
            Ok((view(store.data_mut()).new_tensor(dims, ty, data)?,))
        },
    )?;
    tensors.func_wrap(
        "[method]tensor.dimensions",
        move |mut store, (tensor,): (Tensors,)| Ok((view(store.data_mut()).dimensions(&tensor)?,)),
    )?;
    tensors.func_wrap(
        "[method]tensor.ty",
        move |mut store, (tensor,): (Tensors,)| Ok((view(store.data_mut()).ty(&tensor)?,)),
    )?;
    tensors.func_wrap_async(
        "[method]tensor.data",
        move |mut store, (tensor,): (Tensors,)| {
            let read = view(store.data_mut()).data(&tensor);
            Box::new(async move {
                Ok((match read? {
                    Elements::Local(bytes) => bytes,
                    Elements::Remote(fetched) => {
                        fetched.await.map_err(wasmtime::Error::msg)?.into()
                    }
                },))
            })
        },
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::mpsc::{Receiver, channel};
    use std::time::Duration;

    use wasmtime::component::ResourceTable;

    use super::*;
    use crate::account::Account;
    use crate::infer::backend::tensor::Kept;
    use crate::infer::backend::testing::backends;
    use crate::infer::graph::GraphStore;
    use crate::infer::graph::loader::Loader;
    use crate::infer::graph::loading::LoadingGraphs;
    use crate::infer::nn::{NnCtx, NnLimits};

    /// Elements on a GPU that is busy until the channel says otherwise.
    #[derive(Debug)]
    struct OnBusyGpu(Mutex<Receiver<()>>);

    impl Kept for OnBusyGpu {
        fn bytes(&self) -> usize {
            4
        }

        fn place(&self) -> Place {
            Place::Cuda(0)
        }

        fn read(&self) -> Result<Cow<'_, [u8]>, String> {
            let gate = self.0.lock().unwrap();
            let free = gate.recv_timeout(Duration::from_secs(10));
            free.map_err(|_| "the executor waits for this read".to_owned())?;
            Ok(Cow::Owned(vec![1, 2, 3, 4]))
        }
    }

    fn ctx() -> NnCtx {
        let store = GraphStore::new(Loader::InProcess(backends()));
        NnCtx::new(
            LoadingGraphs::new(store.clone(), Vec::new()),
            Arc::default(),
            store,
            NnLimits {
                account: Account::new(1 << 20),
                load_from_bytes: false,
                own_engine: None,
            },
            Arc::default(),
        )
    }

    // The executor has this one thread.
    #[tokio::test]
    async fn a_read_from_a_busy_gpu_leaves_the_executor_to_others() {
        let (free, gate) = channel();
        let tensor = GuestTensor::new(Tensor {
            ty: ElementType::U8,
            dims: vec![4],
            data: Data::Kept(Arc::new(OnBusyGpu(Mutex::new(gate)))),
        });
        let (mut ctx, mut table) = (ctx(), ResourceTable::new());
        let tensor = table.push(tensor).unwrap();
        let view = NnView {
            ctx: &mut ctx,
            table: &mut table,
        };
        let Elements::Remote(fetched) = view.data(&tensor).unwrap() else {
            panic!("it was read here");
        };
        let reading = tokio::spawn(fetched);
        tokio::task::yield_now().await;
        assert!(!reading.is_finished());
        free.send(()).unwrap();
        assert_eq!(reading.await.unwrap().unwrap(), [1, 2, 3, 4]);
    }
}
