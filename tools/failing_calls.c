/* Preloaded: the n-th call of one kind that touches a file below a directory fails, or all writes are short.

   FAULT_CALL    write, read, fsync, rename, close, truncate, allocate, flock, unlink, chmod, open
   FAULT_N       which of them, from 1; 0: each
   FAULT_ERRNO   what it fails with; 0: it does half of its bytes (write, read)
   FAULT_DIR     where the files are
   FAULT_MARK    a file that is made when that happens */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define REAL(result, name, ...) \
    static result (*real)(__VA_ARGS__); \
    if (!real) real = (result (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

static long n_calls;

static int is_inside(const char *path) {
    const char *directory = getenv("FAULT_DIR");
    return directory && strncmp(path, directory, strlen(directory)) == 0;
}

static int path_of(int fd, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, PATH_MAX - 1);
    if (n < 0) return 0;
    path[n] = 0;
    return 1;
}

/* Whether it is the turn of this call: then errno is what it fails with. */
static int fails_at(const char *call, const char *path) {
    const char *wanted = getenv("FAULT_CALL"), *mark = getenv("FAULT_MARK");
    if (!wanted || strcmp(wanted, call) || !is_inside(path)) return 0;
    long n = atol(getenv("FAULT_N"));
    if (__atomic_add_fetch(&n_calls, 1, __ATOMIC_SEQ_CST) != n && n) return 0;
    if (mark) {
        REAL(int, "open", const char *, int, ...);
        int fd = real(mark, O_WRONLY | O_CREAT, 0600);
        (void)fd; /* one descriptor, of a process that is about to end */
    }
    errno = atoi(getenv("FAULT_ERRNO"));
    return 1;
}

static int fails(const char *call, int fd) {
    char path[PATH_MAX];
    int before = errno, is_turn = path_of(fd, path) && fails_at(call, path);
    if (!is_turn) errno = before;
    return is_turn;
}

#define FAILS_OR_HALF(call) \
    if (fails(call, fd)) { \
        if (errno) return -1; \
        n = n > 1 ? n / 2 : n; \
    }

ssize_t write(int fd, const void *data, size_t n) {
    REAL(ssize_t, "write", int, const void *, size_t);
    FAILS_OR_HALF("write")
    return real(fd, data, n);
}

ssize_t pwrite(int fd, const void *data, size_t n, off_t at) {
    REAL(ssize_t, "pwrite", int, const void *, size_t, off_t);
    FAILS_OR_HALF("write")
    return real(fd, data, n, at);
}

ssize_t pwrite64(int fd, const void *data, size_t n, off64_t at) {
    REAL(ssize_t, "pwrite64", int, const void *, size_t, off64_t);
    FAILS_OR_HALF("write")
    return real(fd, data, n, at);
}

ssize_t read(int fd, void *data, size_t n) {
    REAL(ssize_t, "read", int, void *, size_t);
    FAILS_OR_HALF("read")
    return real(fd, data, n);
}

ssize_t pread(int fd, void *data, size_t n, off_t at) {
    REAL(ssize_t, "pread", int, void *, size_t, off_t);
    FAILS_OR_HALF("read")
    return real(fd, data, n, at);
}

ssize_t pread64(int fd, void *data, size_t n, off64_t at) {
    REAL(ssize_t, "pread64", int, void *, size_t, off64_t);
    FAILS_OR_HALF("read")
    return real(fd, data, n, at);
}

int fsync(int fd) {
    REAL(int, "fsync", int);
    return fails("fsync", fd) ? -1 : real(fd);
}

int fdatasync(int fd) {
    REAL(int, "fdatasync", int);
    return fails("fsync", fd) ? -1 : real(fd);
}

int ftruncate(int fd, off_t n) {
    REAL(int, "ftruncate", int, off_t);
    return fails("truncate", fd) ? -1 : real(fd, n);
}

int ftruncate64(int fd, off64_t n) {
    REAL(int, "ftruncate64", int, off64_t);
    return fails("truncate", fd) ? -1 : real(fd, n);
}

int posix_fallocate(int fd, off_t at, off_t n) {
    REAL(int, "posix_fallocate", int, off_t, off_t);
    return fails("allocate", fd) ? errno : real(fd, at, n);
}

int posix_fallocate64(int fd, off64_t at, off64_t n) {
    REAL(int, "posix_fallocate64", int, off64_t, off64_t);
    return fails("allocate", fd) ? errno : real(fd, at, n);
}

int flock(int fd, int operation) {
    REAL(int, "flock", int, int);
    return fails("flock", fd) ? -1 : real(fd, operation);
}

int fchmod(int fd, mode_t mode) {
    REAL(int, "fchmod", int, mode_t);
    return fails("chmod", fd) ? -1 : real(fd, mode);
}

int close(int fd) {
    REAL(int, "close", int);
    if (!fails("close", fd)) return real(fd);
    int error = errno;
    real(fd); /* as the system does it: the descriptor is gone */
    errno = error;
    return -1;
}

int rename(const char *from, const char *to) {
    REAL(int, "rename", const char *, const char *);
    return fails_at("rename", to) ? -1 : real(from, to);
}

int unlink(const char *path) {
    REAL(int, "unlink", const char *);
    return fails_at("unlink", path) ? -1 : real(path);
}

static int mode_of(int flags, va_list arguments) {
    return flags & (O_CREAT | O_TMPFILE) ? va_arg(arguments, int) : 0;
}

int open(const char *path, int flags, ...) {
    REAL(int, "open", const char *, int, ...);
    va_list arguments;
    va_start(arguments, flags);
    int mode = mode_of(flags, arguments);
    va_end(arguments);
    return fails_at("open", path) ? -1 : real(path, flags, mode);
}

int open64(const char *path, int flags, ...) {
    REAL(int, "open64", const char *, int, ...);
    va_list arguments;
    va_start(arguments, flags);
    int mode = mode_of(flags, arguments);
    va_end(arguments);
    return fails_at("open", path) ? -1 : real(path, flags, mode);
}
