//! Components call `_initialize` of their program when they are made, which runs its constructors. In a snapshot they have
//! run, and a second run would undo what they and `init` did.

use std::convert::Infallible;

use wasm_encoder::reencode::{Error, Reencode, ReencodeComponent};
use wasm_encoder::{CodeSection, Component, Function, Module, ModuleSection};
use wasmparser::{ExternalKind, FunctionBody, Parser, Payload, TypeRef};

/// The component with every `_initialize` empty.
///
/// # Errors
/// In words, when the component is not as was expected.
pub(super) fn skip_constructors(component: &[u8]) -> Result<Vec<u8>, String> {
    let mut encoded = Component::new();
    let mut skip = Skip::default();
    skip.parse_component(&mut encoded, Parser::new(0), component)
        .map_err(|e| format!("its snapshot cannot be written: {e}"))?;
    Ok(encoded.finish())
}

#[derive(Default)]
struct Skip {
    /// Place of `_initialize` among the bodies of the module at hand.
    emptied: Option<u32>,
    bodies: u32,
}

impl Reencode for Skip {
    type Error = Infallible;

    fn parse_function_body(
        &mut self,
        code: &mut CodeSection,
        body: FunctionBody<'_>,
    ) -> Result<(), Error<Infallible>> {
        let place = self.bodies;
        self.bodies += 1;
        if self.emptied != Some(place) {
            return wasm_encoder::reencode::utils::parse_function_body(self, code, body);
        }
        let mut empty = Function::new([]);
        empty.instructions().end();
        code.function(&empty);
        Ok(())
    }
}

impl ReencodeComponent for Skip {
    fn parse_component_submodule(
        &mut self,
        component: &mut Component,
        parser: Parser,
        module: &[u8],
    ) -> Result<(), Error<Infallible>> {
        self.emptied = initialize(parser.clone(), module)?;
        self.bodies = 0;
        let mut encoded = Module::new();
        self.parse_core_module(&mut encoded, parser, module)?;
        component.section(&ModuleSection(&encoded));
        Ok(())
    }
}

/// Where the body of a module's `_initialize` is, counted among its bodies.
fn initialize(parser: Parser, module: &[u8]) -> Result<Option<u32>, Error<Infallible>> {
    let mut imported = 0;
    for payload in parser.parse_all(module) {
        match payload? {
            Payload::ImportSection(imports) => {
                for import in imports.into_imports() {
                    if matches!(import?.ty, TypeRef::Func(_) | TypeRef::FuncExact(_)) {
                        imported += 1;
                    }
                }
            }
            Payload::ExportSection(exports) => {
                for export in exports {
                    let export = export?;
                    if export.kind == ExternalKind::Func && export.name == "_initialize" {
                        return Ok(export.index.checked_sub(imported));
                    }
                }
            }
            _ => {}
        }
    }
    Ok(None)
}
