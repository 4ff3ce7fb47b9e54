//! Stores for MAMOS.
