#include "cache.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

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

char *read_cached(const char *name, size_t *bytes) {
    char path[MAX_PATH + 256], folder[MAX_PATH];
    if (!find_folder(folder)) return NULL;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "rb");
    if (!file) return NULL;
    char *data = NULL;
    long size = fseek(file, 0, SEEK_END) ? -1 : ftell(file);
    if (size > 0 && size <= MOST_BYTES && !fseek(file, 0, SEEK_SET) && (data = malloc((size_t)size)) &&
        fread(data, 1, (size_t)size, file) != (size_t)size) {
        free(data);
        data = NULL;
    }
    fclose(file);
    *bytes = data ? (size_t)size : 0;
    return data;
}

/* Under another name first: who reads meanwhile sees all or nothing. */
void write_cached(const char *name, const char *data, size_t bytes) {
    char path[MAX_PATH + 256], part[MAX_PATH + 256], folder[MAX_PATH];
    if (!find_folder(folder)) return;
    make_folder(folder);
    snprintf(path, sizeof path, "%s/%s", folder, name);
    snprintf(part, sizeof part, "%s/.part-%ld-%.200s", folder, (long)getpid(), name);
    FILE *file = fopen(part, "wb");
    if (!file) return;
    int whole = fwrite(data, 1, bytes, file) == bytes;
    if (fclose(file) || !whole || rename(part, path)) remove(part);
}
