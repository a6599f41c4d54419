//! Reads what Criterion has estimated.

use crate::{Result, parts};
use serde_json::Value;
use std::fs;

/// The median, in ns.
pub(crate) fn read(stack: &str) -> Result<f64> {
    let directory = parts::target()?.join("criterion/overhead").join(stack);
    let estimates = fs::read(directory.join("new/estimates.json"))?;
    let estimates: Value = serde_json::from_slice(&estimates)?;
    let median = estimates["median"]["point_estimate"].as_f64();
    Ok(median.ok_or("no median in the estimates")?)
}
