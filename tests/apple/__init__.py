"""The Apple side under test: a runtime for Linux, a stand-in framework, a cross-compiler."""
