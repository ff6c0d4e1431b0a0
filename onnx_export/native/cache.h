/* Compiled kernels, kept from process to process. Whatever cannot be read or written is compiled again. */
#ifndef TANSOR_CACHE_H
#define TANSOR_CACHE_H

#include <stddef.h>
#include <stdint.h>

/* The file of a name in $TANSOR_CACHE, else $XDG_CACHE_HOME/tansor, else ~/.cache/tansor; null if there is none. */
char *read_cached(const char *name, size_t *bytes);
void write_cached(const char *name, const char *data, size_t bytes);

uint64_t hash_of(const char *text); /* FNV-1a */

#endif
