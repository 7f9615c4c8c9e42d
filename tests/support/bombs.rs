//! Components that take far more to compile than to send.

use wasm_encoder::{
    BlockType, CodeSection, Component, Function, FunctionSection, Module, ModuleSection,
    TypeSection, ValType,
};

/// A component of so many functions, none of which is like another. Each has loops within loops, of which the innermost changes
/// all locals: a compiler that keeps track of each local at each loop needs memory for their product.
pub fn component(functions: u32, loops: u32, locals: u32) -> Vec<u8> {
    let mut types = TypeSection::new();
    types.ty().function([], [ValType::I32]);
    let (mut heads, mut bodies) = (FunctionSection::new(), CodeSection::new());
    for number in 0..functions {
        heads.function(0);
        bodies.function(&body(number, loops, locals));
    }
    let mut module = Module::new();
    module.section(&types).section(&heads).section(&bodies);
    let mut component = Component::new();
    component.section(&ModuleSection(&module));
    component.finish()
}

fn body(number: u32, loops: u32, locals: u32) -> Function {
    let mut function = Function::new([(locals, ValType::I32)]);
    let mut code = function.instructions();
    for _ in 0..loops {
        code.loop_(BlockType::Empty);
    }
    for local in 0..locals {
        code.local_get(local)
            .i32_const(1)
            .i32_add()
            .local_set(local);
    }
    for _ in 0..loops {
        code.local_get(0).br_if(0).end();
    }
    code.i32_const(number.cast_signed());
    for local in 0..locals {
        code.local_get(local).i32_add();
    }
    code.end();
    function
}
