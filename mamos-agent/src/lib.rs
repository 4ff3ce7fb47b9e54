//! The agent side of MAMOS.
