#include "cache.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tansor.h"

enum { MAX_PATH = 4096, MOST_BYTES = 64 << 20 };

uint64_t hash_of(const char *text) {
    uint64_t hash = 0xCBF29CE484222325u;
    for (; *text; text++) hash = (hash ^ (unsigned char)*text) * 0x100000001B3u;
    return hash;
}

/* The folder, with room behind it; false if there is none. An empty TANSOR_CACHE says that nothing is to be kept. */
static int find_folder(char folder[MAX_PATH]) {
    const char *own = getenv("TANSOR_CACHE"), *users = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    int length;
    if (own) length = snprintf(folder, MAX_PATH, "%s", own);
    else if (users && *users) length = snprintf(folder, MAX_PATH, "%s/tansor", users);
    else length = home && *home ? snprintf(folder, MAX_PATH, "%s/.cache/tansor", home) : 0;
    return length > 0 && length < MAX_PATH - 256;
}

static void make_folder(const char *folder) {
    char part[MAX_PATH];
    snprintf(part, sizeof part, "%s", folder);
    for (char *at = part + 1; (at = strchr(at, '/')); *at++ = '/') {
        *at = 0;
        mkdir(part, 0777);
    }
    mkdir(part, 0700);
}

/* A file is what is kept, and its checksum: the driver, which gets it, takes a damaged one for what it says it is. */
char *read_cached(const char *name, size_t *bytes) {
    char path[MAX_PATH + 256], folder[MAX_PATH];
    uint32_t stored;
    if (!find_folder(folder)) return NULL;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "rb");
    if (!file) return NULL;
    long size = fseek(file, 0, SEEK_END) ? -1 : ftell(file);
    size_t kept = size > (long)sizeof stored && size <= MOST_BYTES ? (size_t)size - sizeof stored : 0;
    char *data = kept && !fseek(file, 0, SEEK_SET) ? malloc(kept) : NULL;
    bool is_right = data && fread(data, 1, kept, file) == kept && fread(&stored, sizeof stored, 1, file) == 1 &&
                    crc32_of(0, data, kept) == stored;
    fclose(file);
    if (!is_right) {
        free(data);
        return NULL;
    }
    *bytes = kept;
    return data;
}

/* Under another name first: who reads meanwhile sees all or nothing. */
void write_cached(const char *name, const char *data, size_t bytes) {
    char path[MAX_PATH + 256], part[MAX_PATH + 256], folder[MAX_PATH];
    uint32_t crc = crc32_of(0, data, bytes);
    if (!find_folder(folder)) return;
    make_folder(folder);
    snprintf(path, sizeof path, "%s/%s", folder, name);
    snprintf(part, sizeof part, "%s/.part-%ld-%.200s", folder, (long)getpid(), name);
    FILE *file = fopen(part, "wb");
    if (!file) return;
    bool is_whole = fwrite(data, 1, bytes, file) == bytes && fwrite(&crc, sizeof crc, 1, file) == 1;
    if (fclose(file) || !is_whole || rename(part, path)) remove(part);
}
