/* Where each snippet is: its code, its instruction under test, the one behind that. */
	.section .snippets, "a"

#define SNIPPET(name) .quad snippet_##name, snippet_##name##_site, snippet_##name##_next ;
#define PLACE(name) .quad name, name, name##_next ;
	.globl snippets64
snippets64:
#include "snippets.h"
#undef SNIPPET
#undef PLACE

#define SNIPPET(name) .quad s16_##name, s16_##name##_site, s16_##name##_next ;
	.globl snippets16
snippets16:
#include "snippets_legacy.h"
#undef SNIPPET

#define SNIPPET(name) .quad s32_##name, s32_##name##_site, s32_##name##_next ;
#define PLACE(name) .quad name, name, name##_next ;
	.globl snippets32
snippets32:
#include "snippets_legacy.h"
#include "snippets32.h"
