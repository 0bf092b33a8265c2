"""The compiled core: the only package that knows cffi. All raw pointers stay in here."""
