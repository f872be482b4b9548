//! The codec: captured packets, round trips, bad input, and the fuzz targets in bounded form.

#[path = "../../fuzz/bodies.rs"]
mod bodies;
mod captured;
mod fuzz;
mod golden;
mod malformed;
mod round_trip;
mod values;
