/* Between ctl.c and ctl_requests.c. */
#ifndef CTL_INTERNAL_H
#define CTL_INTERNAL_H

#include "kern.h"

#define CTL_BODY_MAX	8192

/* Answer one request: errno; the payload behind it goes to `out`, *used counts it (4 on entry, for the errno). */
int	ctl_request(uint8_t code, const uint8_t *in, size_t length, uint8_t *out, size_t *used);

#endif
