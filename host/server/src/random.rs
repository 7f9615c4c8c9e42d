//! Ids that nobody can guess and that no other is likely to have.

use rand::RngExt;
use samovar_types::id::Id;

/// Draws an id from a generator that the operating system seeds.
///
/// There are 2.8 * 10^12 ids: a transaction that stores one still requires that its key be absent.
pub fn random_id<Kind>() -> Id<Kind> {
    Id::from_number(rand::rng().random_range(0..Id::<Kind>::COUNT))
}

/// Draws text of the form of an id, for names that are no ids.
pub fn random_text() -> String {
    random_id::<()>().to_string()
}
