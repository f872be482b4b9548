//! Real daemons in network namespaces.

mod cold_start;
mod refusals;
