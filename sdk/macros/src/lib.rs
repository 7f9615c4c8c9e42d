//! The attribute `#[samovar_sdk::model]`: makes a component from a function or an `impl Model`.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{Error, FnArg, ImplItem, Item, ItemFn, ItemImpl, Type, parse_quote};

/// Makes the crate a component.
///
/// On a function: its only argument is read from the body of `POST /predict` (`Json<T>`, `String`, `Vec<u8>` or `Request`), and its return
/// value is the response (`Json<T>`, `String`, `Vec<u8>` or `Response`, plain or in a `Result`).
///
/// On an `impl Model for X`: `load` runs once in each replica, and `predict` serves requests. `predict` and `handle` may have `&self` instead
/// of `&mut self`.
///
/// A crate has exactly one such item, and `crate-type = ["cdylib"]`. The documentation of `samovar-sdk` begins with an example of each.
#[proc_macro_attribute]
pub fn model(
    arguments: proc_macro::TokenStream,
    item: proc_macro::TokenStream,
) -> proc_macro::TokenStream {
    let expanded = expand(arguments.into(), item.into()).unwrap_or_else(Error::into_compile_error);
    expanded.into()
}

fn expand(arguments: TokenStream, item: TokenStream) -> Result<TokenStream, Error> {
    if !arguments.is_empty() {
        return Err(Error::new_spanned(arguments, "#[model] takes no arguments"));
    }
    match syn::parse2(item)? {
        Item::Fn(function) => from_function(&function),
        Item::Impl(item) => from_impl(item),
        other => Err(Error::new_spanned(
            other,
            "put #[model] on a function or on an `impl Model for …`",
        )),
    }
}

fn from_function(function: &ItemFn) -> Result<TokenStream, Error> {
    let signature = &function.sig;
    if let Some(asyncness) = signature.asyncness {
        return Err(Error::new_spanned(
            asyncness,
            "a model's function is not async: a replica answers one request at a time",
        ));
    }
    if !signature.generics.params.is_empty() {
        return Err(Error::new_spanned(
            &signature.generics,
            "a model's function has no generic parameters",
        ));
    }
    let mut inputs = signature.inputs.iter();
    let (Some(FnArg::Typed(input)), None) = (inputs.next(), inputs.next()) else {
        return Err(Error::new_spanned(
            signature,
            "a model's function takes one argument: its input",
        ));
    };
    let name = &signature.ident;
    let input = &input.ty;
    let exports = exports(&parse_quote!(__SamovarModel));
    Ok(quote! {
        #function

        #[doc(hidden)]
        struct __SamovarModel;

        impl ::samovar_sdk::Model for __SamovarModel {
            fn load() -> ::core::result::Result<Self, ::samovar_sdk::Error> {
                ::core::result::Result::Ok(Self)
            }

            fn predict(
                &mut self,
                request: ::samovar_sdk::Request,
            ) -> ::core::result::Result<::samovar_sdk::Response, ::samovar_sdk::Error> {
                let input = <#input as ::samovar_sdk::FromRequest>::from_request(request)?;
                ::samovar_sdk::IntoResponse::into_response(#name(input))
            }
        }

        #exports
    })
}

fn from_impl(mut item: ItemImpl) -> Result<TokenStream, Error> {
    let is_model = item
        .trait_
        .as_ref()
        .and_then(|(_, path, _)| path.segments.last())
        .is_some_and(|last| last.ident == "Model");
    if !is_model {
        return Err(Error::new_spanned(
            item.self_ty,
            "put #[model] on an `impl Model for …`",
        ));
    }
    if !item.generics.params.is_empty() {
        return Err(Error::new_spanned(
            item.generics,
            "the model's type has no generic parameters",
        ));
    }
    for part in &mut item.items {
        let ImplItem::Fn(function) = part else {
            continue;
        };
        if let Some(FnArg::Receiver(receiver)) = function.sig.inputs.first_mut()
            && receiver.reference.is_some()
            && receiver.mutability.is_none()
        {
            // The trait has `&mut self`; a model that changes nothing may say so.
            *receiver = parse_quote!(&mut self);
        }
    }
    let exports = exports(&item.self_ty);
    Ok(quote! {
        #item
        #exports
    })
}

fn exports(model: &Type) -> TokenStream {
    quote! {
        const _: () = {
            use ::samovar_sdk::{__private::wasip2, bindings};

            ::std::thread_local! {
                static MODEL: ::core::cell::RefCell<::core::option::Option<#model>> =
                    const { ::core::cell::RefCell::new(::core::option::Option::None) };
            }

            struct Component;

            impl bindings::exports::samovar::model::lifecycle::Guest for Component {
                fn init() -> ::core::result::Result<(), ::std::string::String> {
                    MODEL.with(::samovar_sdk::__private::init)
                }
            }

            impl wasip2::exports::http::incoming_handler::Guest for Component {
                fn handle(
                    request: wasip2::http::types::IncomingRequest,
                    response: wasip2::http::types::ResponseOutparam,
                ) {
                    MODEL.with(|model| ::samovar_sdk::__private::serve(model, request, response));
                }
            }

            bindings::export_lifecycle!(Component with_types_in bindings);
            wasip2::http::proxy::export!(Component with_types_in wasip2);
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(item: TokenStream) -> String {
        expand(TokenStream::new(), item)
            .expect_err("no model")
            .to_string()
    }

    #[test]
    fn what_is_no_model_is_refused_with_what_to_do() {
        let found = [
            refusal(quote!(
                struct X;
            )),
            refusal(quote!(
                async fn predict(input: String) -> String {
                    input
                }
            )),
            refusal(quote!(
                fn predict<T>(input: T) -> T {
                    input
                }
            )),
            refusal(quote!(
                fn predict(one: String, two: String) -> String {
                    one + &two
                }
            )),
            refusal(quote!(
                impl X {
                    fn predict(&self) {}
                }
            )),
            refusal(quote!(
                impl<T> Model for X<T> {}
            )),
        ];
        let wanted = [
            "on a function or on an `impl Model for …`",
            "is not async",
            "no generic parameters",
            "takes one argument",
            "put #[model] on an `impl Model for …`",
            "no generic parameters",
        ];
        for (found, wanted) in found.iter().zip(wanted) {
            assert!(found.contains(wanted), "{found}");
        }
        let arguments = expand(quote!(fast), quote!()).expect_err("no arguments");
        assert!(arguments.to_string().contains("takes no arguments"));
    }

    #[test]
    fn a_model_that_changes_nothing_may_borrow() -> Result<(), Error> {
        let item = quote! {
            impl samovar_sdk::Model for X {
                fn load() -> Result<Self, Error> { Ok(Self) }
                fn predict(&self, request: Request) -> Result<Response, Error> { todo!() }
            }
        };
        let expanded = expand(TokenStream::new(), item)?.to_string();
        assert!(
            expanded.contains("fn predict (& mut self , request"),
            "{expanded}"
        );
        Ok(())
    }
}
