//! Keeps constructors from running twice. Instantiation calls `_initialize` of the program, which runs its constructors; in a
//! snapshot they have run, and a second run would undo what they and `init` did.

use std::convert::Infallible;

use wasm_encoder::reencode::{Error, Reencode, ReencodeComponent};
use wasm_encoder::{CodeSection, Component, Function, Module, ModuleSection};
use wasmparser::{ExternalKind, FunctionBody, Parser, Payload, TypeRef};

/// Returns the component with an empty body for every `_initialize`.
///
/// # Errors
/// When the component cannot be parsed or encoded.
pub(super) fn skip_constructors(component: &[u8]) -> Result<Vec<u8>, String> {
    let mut encoded = Component::new();
    let mut encoder = EmptyInitialize::default();
    encoder
        .parse_component(&mut encoded, Parser::new(0), component)
        .map_err(|e| format!("the snapshot cannot be encoded: {e}"))?;
    Ok(encoded.finish())
}

#[derive(Default)]
struct EmptyInitialize {
    /// Index of the body of `_initialize` in the current module.
    initialize: Option<u32>,
    /// Bodies of the current module so far.
    bodies: u32,
}

impl Reencode for EmptyInitialize {
    type Error = Infallible;

    fn parse_function_body(
        &mut self,
        code: &mut CodeSection,
        body: FunctionBody<'_>,
    ) -> Result<(), Error<Infallible>> {
        let index = self.bodies;
        self.bodies += 1;
        if self.initialize != Some(index) {
            return wasm_encoder::reencode::utils::parse_function_body(self, code, body);
        }
        let mut empty = Function::new([]);
        empty.instructions().end();
        code.function(&empty);
        Ok(())
    }
}

impl ReencodeComponent for EmptyInitialize {
    fn parse_component_submodule(
        &mut self,
        component: &mut Component,
        parser: Parser,
        module: &[u8],
    ) -> Result<(), Error<Infallible>> {
        self.initialize = find_initialize(parser.clone(), module)?;
        self.bodies = 0;
        let mut encoded = Module::new();
        self.parse_core_module(&mut encoded, parser, module)?;
        component.section(&ModuleSection(&encoded));
        Ok(())
    }
}

/// The index of the body of a module's `_initialize`.
fn find_initialize(parser: Parser, module: &[u8]) -> Result<Option<u32>, Error<Infallible>> {
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
