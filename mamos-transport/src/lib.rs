//! Transports and buses for MAMOS.
