/* hollow.c: a shared library that is no driver. */
int hollow(void);

int hollow(void) {
    return 0;
}
