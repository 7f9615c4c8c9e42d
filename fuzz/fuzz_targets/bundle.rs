//! A bundle that a server takes stays inside its sandbox, is stored as it was sent, and is laid out as a folder that says the
//! same.

#![no_main]

use std::path::{Component, Path};

use libfuzzer_sys::fuzz_target;
use samovar_fuzz::bundles;
use samovar_fuzz::documents::{read_and_write, with_unknown_field};
use samovar_types::bundle::{Bundle, MAX_BUNDLE_BYTES};
use samovar_types::strict::Strict;

fuzz_target!(|body: &[u8]| {
    let Ok(bundle) = samovar_server::fuzzing::pushed_bundle(body) else {
        return;
    };
    let stored = serde_json::to_vec(&bundle).expect("a bundle can be written");
    assert!(stored.len() <= MAX_BUNDLE_BYTES);
    let again: Bundle = read_and_write(&stored).expect("a bundle can be read");
    assert_eq!(again, bundle);
    assert_eq!(again.digest(), bundle.digest());
    let strict = |bytes: &[u8]| serde_json::from_slice::<Strict<Bundle>>(bytes);
    assert_eq!(strict(&stored).expect("a bundle can be sent").0, bundle);
    let later = with_unknown_field(&stored).expect("a bundle is an object");
    assert!(strict(&later).is_err(), "an unknown field is sent");

    let graphs = bundle.graphs.values();
    let paths = graphs.flat_map(|graph| graph.data.keys().chain([&graph.file]));
    for path in paths.chain(bundle.files.keys()) {
        let mut parts = Path::new(path).components();
        assert!(
            parts.all(|part| matches!(part, Component::Normal(_))),
            "{path:?}"
        );
    }
    bundles::check_folder(&bundle);
});
