//! Tells the program when it was built: the present can't be earlier, whatever a gateway's clock says.

use std::time::{SystemTime, UNIX_EPOCH};

#[expect(clippy::disallowed_methods, reason = "a build script runs where the program is built")]
fn main() {
    // Reproducible builds set this (https://reproducible-builds.org/specs/source-date-epoch/).
    println!("cargo::rerun-if-env-changed=SOURCE_DATE_EPOCH");
    let said = std::env::var("SOURCE_DATE_EPOCH").ok().and_then(|text| text.parse::<u64>().ok());
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    println!("cargo::rustc-env=FIELDMEDIC_BUILD_EPOCH_S={}", said.unwrap_or_else(now));
}
