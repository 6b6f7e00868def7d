# Runs in a chroot of the host and in one of the guest; prints the same in both.
cd /work || exit 1
export LC_ALL=C PATH=/usr/sbin:/usr/bin:/sbin:/bin
mkdir -p out
# -k: a source that needs a library that is not here is left out, on both sides.
make -k -s -j"$(nproc)" FILES="$(cat files)" >make.log 2>&1 || [ -e partial ] || { cat make.log; exit 1; }
sha256sum out/* | sort -k 2
for test in parse_test json_out_test state_test; do
    out/$test >$test.log 2>&1
    echo "$test: $? $(grep -c '\[       OK \]' $test.log)"
done
python3 - <<'P'
import hashlib, json, random, re, zlib
def pi(digits):
    q, r, t, k, n, l, out = 1, 0, 1, 1, 3, 3, []
    while len(out) < digits:
        if 4 * q + r - t < n * t:
            out.append(str(n))
            q, r, n = 10 * q, 10 * (r - n * t), 10 * (3 * q + r) // t - 10 * n
        else:
            q, r, t, k, n, l = q * k, (2 * q + r) * l, t * l, k + 1, (q * (7 * k + 2) + r * l) // (t * l), l + 2
    return "".join(out)
digits = pi(500)
assert digits.startswith("31415926535897932384626433832795028841971")
random.seed(4)
numbers = [random.gauss(0, 1) for _ in range(20000)]
text = json.dumps(sorted(numbers)).encode()
packed = zlib.compress(text, 9)
assert zlib.decompress(packed) == text
words = re.findall(r"\d(\d{3})\d", text.decode())
print("python", digits[-10:], hashlib.sha256(text).hexdigest(), len(packed), zlib.crc32(packed),
      len(words), hash(float(sum(numbers))))
P
perl -MDigest::SHA=sha256_hex -e '
my ($x, %n, @out) = (42);
for (1 .. 60000) { $x = ($x * 1103515245 + 12345) % 2147483648; $n{$x % 977} .= chr(97 + $x % 26); }
for (sort { $n{$a} cmp $n{$b} } keys %n) { (my $t = $n{$_}) =~ s/([aeiou]+)(.)/$2$1/g; push @out, scalar reverse $t; }
printf "perl %s %.15g\n", sha256_hex(join ",", @out), eval { my $s = 0; $s += sin($_) / $_ for 1 .. 20000; $s };'
