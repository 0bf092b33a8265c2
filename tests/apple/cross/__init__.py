"""Cross-compiling the driver for macOS on arm64, and looking at what comes out."""
