//! One hub and very many spokes, without a network between them: what one more spoke costs, in time
//! and in memory, and whether that depends on how many there are.

mod flood;
mod hub;
mod nhrp;
mod report;

pub use flood::{Flood, flood};
pub use hub::{Hub, Protection};
pub(crate) use nhrp::NoTraffic;
pub use nhrp::{Rates, registration, registrations, serve, server};
pub use report::{Measured, plot, table};
