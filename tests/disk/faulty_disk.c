/* A disk that is watched, and that fails when told to; preloaded into a process (LD_PRELOAD).
 *
 * FAULTY_DISK_FOLDER  the folder whose files are meant (not those in folders below it)
 * FAULTY_DISK_TRACE   where every change of them is written down, in order; without it nothing is
 *
 * The trace: records of a header (struct record, little endian) and `length` bytes. A file has a number from its
 * creation on, whatever it is called later; `create` and `rename` bear names.
 *
 * In the process, by ctypes: disk_mark(text) puts a line of its own into the trace, disk_fault(kind, error, after,
 * times) has calls of that kind fail with that errno: the first `after` do not, then `times` do (-1: all).
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum change { CREATE = 1, WRITE, TRUNCATE, SYNC, SYNC_FOLDER, RENAME, UNLINK, MARK };
/* WRITE, SYNC, READ, change of NAMEs; GROW: what needs room that the file has not and that no other file has given back
   since, as on a full disk. */
enum kind { F_WRITE, F_SYNC, F_READ, F_NAME, F_GROW, KINDS };

struct record {
    uint32_t change, file;
    uint64_t offset;
    uint32_t length, pad;
};

#define FDS 1024
#define FILES 256
#define FOLDER 0xffffffffu

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char folder[4096];
static size_t folder_length;
static FILE *trace;
static uint32_t number_of[FDS]; /* Of the file that is open there; 0: not ours. */
static struct { dev_t device; ino_t inode; } known[FILES];
static uint32_t last_number;
static struct { int error; long after, times; } faults[KINDS];
static int64_t given_back;

#define REAL(name) ((__typeof__(&name))real(#name))

static void *real(const char *name) {
    void *found = dlsym(RTLD_NEXT, name);
    if (found == NULL) abort();
    return found;
}

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("FAULTY_DISK_FOLDER"), *to = getenv("FAULTY_DISK_TRACE");
    if (path == NULL) return;
    snprintf(folder, sizeof folder, "%s", path);
    folder_length = strlen(folder);
    if (to != NULL) trace = fopen(to, "wbe");
}

__attribute__((destructor)) static void end(void) {
    if (trace != NULL) fflush(trace);
}

/* The name within the folder, or NULL for what lies elsewhere; "" for the folder itself. */
static const char *ours(const char *path) {
    if (!folder_length || strncmp(path, folder, folder_length) != 0) return NULL;
    const char *rest = path + folder_length;
    if (*rest == '\0') return rest;
    if (*rest != '/' || strchr(rest + 1, '/') != NULL) return NULL;
    return rest + 1;
}

static void note(enum change change, uint32_t file, uint64_t offset, const void *data, size_t length) {
    if (trace == NULL) return;
    struct record record = {change, file, offset, (uint32_t)length, 0};
    if (fwrite(&record, sizeof record, 1, trace) != 1 || fwrite(data, 1, length, trace) != length) abort();
}

static int fails(enum kind kind) {
    if (faults[kind].error == 0) return 0;
    if (faults[kind].after > 0) { faults[kind].after--; return 0; }
    if (faults[kind].times == 0) return 0;
    if (faults[kind].times > 0) faults[kind].times--;
    errno = faults[kind].error;
    return 1;
}

static uint32_t file_at(int fd) { return fd >= 0 && fd < FDS ? number_of[fd] : 0; }

static int grows(int fd, int64_t end) {
    struct stat found;
    if (faults[F_GROW].error == 0 || fstat(fd, &found) != 0 || end <= found.st_size) return 0;
    if (end - found.st_size > given_back) return fails(F_GROW);
    given_back -= end - found.st_size;
    return 0;
}

static uint32_t numbered(int fd, const char *name, int is_new) {
    struct stat found;
    if (fstat(fd, &found) != 0) abort();
    if (S_ISDIR(found.st_mode)) return FOLDER;
    for (uint32_t number = last_number; !is_new && number > 0; number--)
        if (known[number].inode == found.st_ino && known[number].device == found.st_dev) return number;
    if (++last_number >= FILES) abort();
    known[last_number].device = found.st_dev;
    known[last_number].inode = found.st_ino;
    /* offset 1: it was there before, and is only given a number. */
    note(CREATE, last_number, is_new ? 0 : 1, name, strlen(name));
    return last_number;
}

static int opened(int (*call)(int, const char *, int, ...), int at, const char *path, int flags, mode_t mode) {
    const char *name = ours(path);
    if (name == NULL) return call(at, path, flags, mode);
    pthread_mutex_lock(&lock);
    struct stat before;
    int is_new = (flags & O_CREAT) && stat(path, &before) != 0;
    int fd = -1;
    if (!(is_new && fails(F_NAME))) fd = call(at, path, flags, mode);
    if (fd >= 0 && fd < FDS) {
        number_of[fd] = numbered(fd, name, is_new);
        if ((flags & O_TRUNC) && !is_new) note(TRUNCATE, number_of[fd], 0, "", 0);
    }
    int error = errno;
    pthread_mutex_unlock(&lock);
    errno = error;
    return fd;
}

static mode_t mode_in(va_list list, int flags) {
    return (flags & O_CREAT) || (flags & O_TMPFILE) == O_TMPFILE ? va_arg(list, mode_t) : 0;
}

#define OPEN(name, real_name)                                    \
    int name(const char *path, int flags, ...) {                 \
        va_list list;                                            \
        va_start(list, flags);                                   \
        mode_t mode = mode_in(list, flags);                      \
        va_end(list);                                            \
        return opened(REAL(real_name), AT_FDCWD, path, flags, mode); \
    }
#define OPENAT(name)                                             \
    int name(int at, const char *path, int flags, ...) {         \
        va_list list;                                            \
        va_start(list, flags);                                   \
        mode_t mode = mode_in(list, flags);                      \
        va_end(list);                                            \
        return opened(REAL(name), at, path, flags, mode);        \
    }
OPEN(open, openat)
OPEN(open64, openat64)
OPENAT(openat)
OPENAT(openat64)

int close(int fd) {
    if (fd >= 0 && fd < FDS) number_of[fd] = 0;
    return REAL(close)(fd);
}

static ssize_t written(int fd, const void *data, size_t length, int64_t offset) {
    uint32_t file = file_at(fd);
    if (file == 0) return offset < 0 ? REAL(write)(fd, data, length) : REAL(pwrite64)(fd, data, length, offset);
    pthread_mutex_lock(&lock);
    int64_t at = offset >= 0 ? offset : REAL(lseek64)(fd, 0, fcntl(fd, F_GETFL) & O_APPEND ? SEEK_END : SEEK_CUR);
    ssize_t done = -1;
    if (!fails(F_WRITE) && !grows(fd, at + (int64_t)length)) {
        done = offset < 0 ? REAL(write)(fd, data, length) : REAL(pwrite64)(fd, data, length, offset);
        if (done > 0) note(WRITE, file, (uint64_t)at, data, (size_t)done);
    }
    int error = errno;
    pthread_mutex_unlock(&lock);
    errno = error;
    return done;
}

ssize_t write(int fd, const void *data, size_t length) { return written(fd, data, length, -1); }
ssize_t pwrite(int fd, const void *data, size_t length, off_t offset) { return written(fd, data, length, offset); }
ssize_t pwrite64(int fd, const void *data, size_t length, off64_t offset) { return written(fd, data, length, offset); }

static ssize_t got(int fd, void *data, size_t length, int64_t offset) {
    if (file_at(fd) != 0 && fails(F_READ)) return -1;
    return offset < 0 ? REAL(read)(fd, data, length) : REAL(pread64)(fd, data, length, offset);
}

ssize_t read(int fd, void *data, size_t length) { return got(fd, data, length, -1); }
ssize_t pread(int fd, void *data, size_t length, off_t offset) { return got(fd, data, length, offset); }
ssize_t pread64(int fd, void *data, size_t length, off64_t offset) { return got(fd, data, length, offset); }

static int truncated(int fd, off64_t size) {
    uint32_t file = file_at(fd);
    if (file == 0) return REAL(ftruncate64)(fd, size);
    if (fails(F_WRITE) || grows(fd, size)) return -1;
    int done = REAL(ftruncate64)(fd, size);
    if (done == 0) note(TRUNCATE, file, (uint64_t)size, "", 0);
    return done;
}

int ftruncate(int fd, off_t size) { return truncated(fd, size); }
int ftruncate64(int fd, off64_t size) { return truncated(fd, size); }

static int allocated(int fd, off64_t offset, off64_t length) {
    uint32_t file = file_at(fd);
    if (file == 0) return REAL(posix_fallocate64)(fd, offset, length);
    if (fails(F_WRITE) || grows(fd, offset + length)) return errno;
    struct stat before;
    if (fstat(fd, &before) != 0) abort();
    int error = REAL(posix_fallocate64)(fd, offset, length);
    if (error == 0 && offset + length > before.st_size) note(TRUNCATE, file, (uint64_t)(offset + length), "", 0);
    return error;
}

int posix_fallocate(int fd, off_t offset, off_t length) { return allocated(fd, offset, length); }
int posix_fallocate64(int fd, off64_t offset, off64_t length) { return allocated(fd, offset, length); }

static int synced(int (*call)(int), int fd) {
    uint32_t file = file_at(fd);
    if (file == 0) return call(fd);
    if (fails(F_SYNC)) return -1;
    int done = call(fd);
    if (done == 0) note(file == FOLDER ? SYNC_FOLDER : SYNC, file, 0, "", 0);
    return done;
}

int fsync(int fd) { return synced(REAL(fsync), fd); }
int fdatasync(int fd) { return synced(REAL(fdatasync), fd); }

int rename(const char *from, const char *to) {
    const char *old = ours(from), *new = ours(to);
    if (old == NULL || new == NULL) return REAL(rename)(from, to);
    if (fails(F_NAME)) return -1;
    int done = REAL(rename)(from, to);
    if (done == 0) {
        char names[512];
        int length = snprintf(names, sizeof names, "%s/%s", old, new);
        if (length >= (int)sizeof names) abort();
        note(RENAME, 0, 0, names, (size_t)length);
    }
    return done;
}

int unlink(const char *path) {
    const char *name = ours(path);
    if (name == NULL) return REAL(unlink)(path);
    if (fails(F_NAME)) return -1;
    struct stat before;
    int64_t size = stat(path, &before) == 0 ? before.st_size : 0;
    int done = REAL(unlink)(path);
    if (done == 0) given_back += size;
    if (done == 0) note(UNLINK, 0, 0, name, strlen(name));
    return done;
}

void disk_mark(const char *text) { note(MARK, 0, 0, text, strlen(text)); }

void disk_fault(int kind, int error, long after, long times) {
    if (kind < 0 || kind >= KINDS) abort();
    if (kind == F_GROW) given_back = 0;
    faults[kind].error = error;
    faults[kind].after = after;
    faults[kind].times = times;
}
