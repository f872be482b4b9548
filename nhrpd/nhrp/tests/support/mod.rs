//! Shared by the tests of the codec and by the fuzz targets.

pub(crate) mod golden;
