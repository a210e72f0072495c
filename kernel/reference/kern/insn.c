/* Lengths of the 64-bit instructions that the compiler and the assembly sources of this kernel use. */
#include "fbt.h"

enum { NONE = 0, MODRM = 1, IMM8 = 2, IMM16 = 4, IMM32 = 8, INVALID = 0x80 };

static int
one_byte(uint8_t op)
{
	if (op < 0x40) {
		switch (op & 7) {
		case 4:
			return (IMM8);
		case 5:
			return (IMM32);
		case 6:
		case 7:
			return (INVALID);
		default:
			return (MODRM);
		}
	}
	if ((op >= 0x50 && op <= 0x5f) || (op >= 0x90 && op <= 0x9f && op != 0x9a) || (op >= 0x6c && op <= 0x6f))
		return (NONE);
	if (op >= 0x70 && op <= 0x7f)
		return (IMM8);
	if (op >= 0x84 && op <= 0x8f)
		return (MODRM);
	if (op >= 0xb0 && op <= 0xb7)
		return (IMM8);
	if (op >= 0xb8 && op <= 0xbf)
		return (IMM32);		/* eight bytes with REX.W: the caller knows */
	if (op >= 0xd0 && op <= 0xd3)
		return (MODRM);
	if (op >= 0xe0 && op <= 0xe7)
		return (IMM8);
	switch (op) {
	case 0x63: case 0xf6: case 0xf7: case 0xfe: case 0xff:
		return (MODRM);
	case 0x68: case 0xa9: case 0xe8: case 0xe9:
		return (IMM32);
	case 0x69: case 0x81: case 0xc7:
		return (MODRM | IMM32);
	case 0x6b: case 0x80: case 0x83: case 0xc0: case 0xc1: case 0xc6:
		return (MODRM | IMM8);
	case 0x6a: case 0xa8: case 0xcd: case 0xeb:
		return (IMM8);
	case 0xc2: case 0xca:
		return (IMM16);
	case 0xc8:
		return (IMM16 | IMM8);
	case 0xa4: case 0xa5: case 0xa6: case 0xa7: case 0xaa: case 0xab: case 0xac: case 0xad: case 0xae: case 0xaf:
	case 0xc3: case 0xc9: case 0xcb: case 0xcc: case 0xcf: case 0xec: case 0xed: case 0xee: case 0xef: case 0xf1:
	case 0xf4: case 0xf5: case 0xf8: case 0xf9: case 0xfa: case 0xfb: case 0xfc: case 0xfd:
		return (NONE);
	default:
		return (INVALID);
	}
}

static int
two_byte(uint8_t op)
{
	if ((op >= 0x80 && op <= 0x8f))
		return (IMM32);
	if ((op >= 0x30 && op <= 0x37) || (op >= 0xc8 && op <= 0xcf))
		return (NONE);
	switch (op) {
	case 0x05: case 0x06: case 0x07: case 0x08: case 0x09: case 0x0b: case 0x77:
	case 0xa0: case 0xa1: case 0xa2: case 0xa8: case 0xa9: case 0xaa:
		return (NONE);
	case 0x70: case 0x71: case 0x72: case 0x73: case 0xa4: case 0xac: case 0xba: case 0xc2: case 0xc4: case 0xc5:
	case 0xc6:
		return (MODRM | IMM8);
	case 0x04: case 0x0a: case 0x0c: case 0x0e: case 0x0f: case 0x24: case 0x25: case 0x26: case 0x27:
		return (INVALID);
	default:
		return (MODRM);
	}
}

/* Bytes of ModRM, SIB and displacement. */
static int
modrm_length(const uint8_t *p)
{
	unsigned mod = p[0] >> 6, rm = p[0] & 7;
	int length = 1;

	if (mod == 3)
		return (1);
	if (rm == 4) {
		length++;
		if (mod == 0 && (p[1] & 7) == 5)
			return (length + 4);
	}
	if (mod == 0)
		return (rm == 5 ? length + 4 : length);
	return (length + (mod == 1 ? 1 : 4));
}

int
insn_length(const uint8_t *code)
{
	const uint8_t *p = code;
	bool rex_w = false, word = false, two = false;
	int form;

	for (;; p++) {
		if (*p == 0x66)
			word = true;
		else if (*p != 0x67 && *p != 0xf0 && *p != 0xf2 && *p != 0xf3 && *p != 0x2e && *p != 0x36 &&
		    *p != 0x3e && *p != 0x26 && *p != 0x64 && *p != 0x65)
			break;
	}
	if ((*p & 0xf0) == 0x40)
		rex_w = (*p++ & 8) != 0;
	if (*p == 0x0f) {
		two = true;
		p++;
		if (*p == 0x38 || *p == 0x3a) {
			form = *p == 0x38 ? MODRM : MODRM | IMM8;
			p++;
		} else {
			form = two_byte(*p);
		}
	} else {
		form = one_byte(*p);
	}
	if (form == INVALID)
		return (0);
	if (!two && (*p == 0xf6 || *p == 0xf7) && (p[1] & 0x38) <= 0x08)
		form |= *p == 0xf6 ? IMM8 : IMM32;		/* TEST has an immediate, NOT to IDIV have none */
	if (!two && *p >= 0xb8 && *p <= 0xbf && rex_w)
		return ((int)(p - code) + 1 + 8);
	if (!two && *p >= 0xa0 && *p <= 0xa3)
		return ((int)(p - code) + 1 + 8);
	if ((form & IMM32) != 0 && word && (two || (*p != 0xe8 && *p != 0xe9)))
		form = (form & ~IMM32) | IMM16;
	p++;
	if ((form & MODRM) != 0)
		p += modrm_length(p);
	p += ((form & IMM8) != 0) + 2 * ((form & IMM16) != 0) + 4 * ((form & IMM32) != 0);
	return ((int)(p - code));
}
