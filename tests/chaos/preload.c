/* Makes the disk of one node slow, failing or full, and moves its wall clock: preloaded before libc, steered by a small file.
 *
 * The file (CHAOS_CONTROL) is mapped, so a change is seen by the next call; its layout is tests/chaos/preload.py's.
 * Only files below CHAOS_DISK_DIR are touched. A sync is fsync, fdatasync, msync, or a write through a descriptor that was
 * opened for synchronous writes (LMDB writes its meta page so).
 *
 * The clock is moved for the Python interpreter alone. Libraries make deadlines of the wall clock which the kernel compares
 * with its own; had it jumped too, they would agree, and here they would not.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

struct control {
    volatile uint32_t sync_delay_ms;
    volatile uint32_t write_delay_ms;
    volatile uint32_t sync_errno;  /* of every sync, 0 for none */
    volatile uint32_t write_errno; /* of every write, 0 for none */
    volatile int32_t clock_shift_s;
};

static struct control off;
static struct control *control = &off;
static char directory[PATH_MAX];
static void *interpreter; /* where it is loaded */

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("CHAOS_CONTROL"), *below = getenv("CHAOS_DISK_DIR");
    if (path == NULL || below == NULL)
        return;
    snprintf(directory, sizeof directory, "%s/", below);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    void *mapped = mmap(NULL, sizeof(struct control), PROT_READ, MAP_SHARED, fd, 0);
    close(fd);
    if (mapped != MAP_FAILED)
        control = mapped;
    Dl_info of;
    void *symbol = dlsym(RTLD_DEFAULT, "Py_BytesMain");
    if (symbol != NULL && dladdr(symbol, &of))
        interpreter = of.dli_fbase;
}

static int is_ours(int fd) {
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, path, sizeof path - 1);
    if (size < 0)
        return 0;
    path[size] = 0;
    return strncmp(path, directory, strlen(directory)) == 0;
}

static void rest(uint32_t milliseconds) {
    struct timespec left = {milliseconds / 1000, (long)(milliseconds % 1000) * 1000000};
    while (milliseconds && nanosleep(&left, &left) == -1 && errno == EINTR)
        ;
}

/* What a sync meets: 0, or -1 with errno. */
static int sync_meets(void) {
    rest(control->sync_delay_ms);
    if (control->sync_errno == 0)
        return 0;
    errno = (int)control->sync_errno;
    return -1;
}

static int write_meets(int fd) {
    if (!(control->write_delay_ms | control->write_errno | control->sync_delay_ms | control->sync_errno) || !is_ours(fd))
        return 0;
    rest(control->write_delay_ms);
    if (control->write_errno) {
        errno = (int)control->write_errno;
        return -1;
    }
    int flags = fcntl(fd, F_GETFL);
    return flags != -1 && (flags & (O_SYNC | O_DSYNC)) ? sync_meets() : 0;
}

#define REAL(name) \
    static __typeof__(&name) real; \
    if (real == NULL) \
        real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)
#define SYNCED(name) \
    int name(int fd) { \
        REAL(name); \
        return (control->sync_delay_ms | control->sync_errno) && is_ours(fd) && sync_meets() ? -1 : real(fd); \
    }
#define WRITTEN(name, parameters, arguments) \
    ssize_t name parameters { \
        REAL(name); \
        return write_meets(fd) ? -1 : real arguments; \
    }

SYNCED(fsync)
SYNCED(fdatasync)
WRITTEN(pwrite, (int fd, const void *data, size_t size, off_t at), (fd, data, size, at))
WRITTEN(pwrite64, (int fd, const void *data, size_t size, off64_t at), (fd, data, size, at))
WRITTEN(writev, (int fd, const struct iovec *parts, int count), (fd, parts, count))
WRITTEN(pwritev, (int fd, const struct iovec *parts, int count, off_t at), (fd, parts, count, at))
WRITTEN(pwritev64, (int fd, const struct iovec *parts, int count, off64_t at), (fd, parts, count, at))

int msync(void *address, size_t size, int flags) {
    REAL(msync);
    return (control->sync_delay_ms | control->sync_errno) && sync_meets() ? -1 : real(address, size, flags);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    REAL(clock_gettime);
    int result = real(clock, now);
    Dl_info caller;
    if (result == 0 && clock == CLOCK_REALTIME && control->clock_shift_s && interpreter != NULL &&
        dladdr(__builtin_return_address(0), &caller) && caller.dli_fbase == interpreter)
        now->tv_sec += control->clock_shift_s;
    return result;
}
