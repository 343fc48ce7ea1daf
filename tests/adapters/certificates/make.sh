#!/bin/sh
# Makes the certificates of test_certificates.py again (OpenSSL 3): an authority that nobody knows, and servers on
# 127.0.0.1. Each file of a server holds its key and its certificate. They are good for nothing but these tests.
set -eu
cd "$(dirname "$0")"
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
new="-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
openssl req -x509 $new -days 36500 -subj /CN=authority -keyout "$tmp/ca.key" -out authority.pem \
    -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign
mkdir "$tmp/signed"
printf '[ca]\ndefault_ca=d\n[d]\ndatabase=%s/index\nserial=%s/serial\nnew_certs_dir=%s/signed\ndefault_md=sha256\npolicy=p\ncopy_extensions=copy\n[p]\ncommonName=supplied\n' \
    "$tmp" "$tmp" "$tmp" >"$tmp/ca.cnf"
: >"$tmp/index"
echo 01 >"$tmp/serial"
sign() { # NAME SUBJECT-ALTERNATIVE-NAME FROM UNTIL
    openssl req $new -subj "/CN=$1" -addext "subjectAltName=$2" -keyout "$tmp/$1.key" -out "$tmp/$1.csr"
    openssl ca -batch -notext -config "$tmp/ca.cnf" -cert authority.pem -keyfile "$tmp/ca.key" \
        -startdate "$3" -enddate "$4" -in "$tmp/$1.csr" -out "$tmp/$1.crt"
    cat "$tmp/$1.key" "$tmp/$1.crt" >"$1.pem"
}
sign signed IP:127.0.0.1 20200101000000Z 21200101000000Z
sign expired IP:127.0.0.1 20200101000000Z 20210101000000Z
sign elsewhere DNS:elsewhere.example 20200101000000Z 21200101000000Z
openssl req -x509 $new -days 36500 -subj /CN=self-signed -addext subjectAltName=IP:127.0.0.1 \
    -keyout "$tmp/self.key" -out "$tmp/self.crt"
cat "$tmp/self.key" "$tmp/self.crt" >self-signed.pem
