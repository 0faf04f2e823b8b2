"""What is the same for everybody in a country: continent, currency (ISO 4217), languages (ISO 639, BCP 47).

Data for header fields and for overrides by testers, not for law: official languages first, at most four.
"""

from __future__ import annotations

from edgeproxy.record import record

# country continent currency languages
_TABLE = """
AD EU EUR ca|AE AS AED ar,en|AF AS AFN fa,ps|AG NA XCD en|AI NA XCD en|AL EU ALL sq|AM AS AMD hy
AO AF AOA pt|AQ AN - -|AR SA ARS es|AS OC USD en,sm|AT EU EUR de|AU OC AUD en|AW NA AWG nl,pap
AX EU EUR sv|AZ AS AZN az|BA EU BAM bs,hr,sr|BB NA BBD en|BD AS BDT bn|BE EU EUR nl,fr,de|BF AF XOF fr
BG EU EUR bg|BH AS BHD ar|BI AF BIF rn,fr,en|BJ AF XOF fr|BL NA EUR fr|BM NA BMD en|BN AS BND ms,en
BO SA BOB es,qu,ay|BQ NA USD nl,pap,en|BR SA BRL pt|BS NA BSD en|BT AS BTN dz|BV AN NOK no|BW AF BWP en,tn
BY EU BYN be,ru|BZ NA BZD en,es|CA NA CAD en,fr|CC AS AUD en,ms|CD AF CDF fr,ln,sw|CF AF XAF fr,sg
CG AF XAF fr,ln|CH EU CHF de,fr,it,rm|CI AF XOF fr|CK OC NZD en|CL SA CLP es|CM AF XAF fr,en|CN AS CNY zh
CO SA COP es|CR NA CRC es|CU NA CUP es|CV AF CVE pt|CW NA XCG nl,pap,en|CX AS AUD en|CY EU EUR el,tr
CZ EU CZK cs|DE EU EUR de|DJ AF DJF fr,ar|DK EU DKK da|DM NA XCD en|DO NA DOP es|DZ AF DZD ar,fr
EC SA USD es,qu|EE EU EUR et|EG AF EGP ar|EH AF MAD ar|ER AF ERN ti,ar,en|ES EU EUR es,ca,gl,eu
ET AF ETB am,om|FI EU EUR fi,sv|FJ OC FJD en,fj,hi|FK SA FKP en|FM OC USD en|FO EU DKK fo,da|FR EU EUR fr
GA AF XAF fr|GB EU GBP en,cy|GD NA XCD en|GE AS GEL ka|GF SA EUR fr|GG EU GBP en|GH AF GHS en|GI EU GIP en
GL NA DKK kl,da|GM AF GMD en|GN AF GNF fr|GP NA EUR fr|GQ AF XAF es,fr,pt|GR EU EUR el|GS AN GBP en
GT NA GTQ es|GU OC USD en,ch|GW AF XOF pt|GY SA GYD en|HK AS HKD zh,en|HM AN AUD en|HN NA HNL es
HR EU EUR hr|HT NA HTG ht,fr|HU EU HUF hu|ID AS IDR id|IE EU EUR en,ga|IL AS ILS he,ar|IM EU GBP en,gv
IN AS INR hi,en|IO AS USD en|IQ AS IQD ar,ku|IR AS IRR fa|IS EU ISK is|IT EU EUR it|JE EU GBP en
JM NA JMD en|JO AS JOD ar|JP AS JPY ja|KE AF KES sw,en|KG AS KGS ky,ru|KH AS KHR km|KI OC AUD en,gil
KM AF KMF ar,fr|KN NA XCD en|KP AS KPW ko|KR AS KRW ko|KW AS KWD ar|KY NA KYD en|KZ AS KZT kk,ru
LA AS LAK lo|LB AS LBP ar,fr|LC NA XCD en|LI EU CHF de|LK AS LKR si,ta|LR AF LRD en|LS AF LSL st,en
LT EU EUR lt|LU EU EUR lb,fr,de|LV EU EUR lv|LY AF LYD ar|MA AF MAD ar,zgh,fr|MC EU EUR fr|MD EU MDL ro
ME EU EUR cnr,sr|MF NA EUR fr|MG AF MGA mg,fr|MH OC USD mh,en|MK EU MKD mk,sq|ML AF XOF fr,bm|MM AS MMK my
MN AS MNT mn|MO AS MOP zh,pt|MP OC USD en,ch|MQ NA EUR fr|MR AF MRU ar,fr|MS NA XCD en|MT EU EUR mt,en
MU AF MUR en,fr|MV AS MVR dv|MW AF MWK en,ny|MX NA MXN es|MY AS MYR ms,en|MZ AF MZN pt|NA AF NAD en,af
NC OC XPF fr|NE AF XOF fr,ha|NF OC AUD en|NG AF NGN en|NI NA NIO es|NL EU EUR nl|NO EU NOK nb,nn
NP AS NPR ne|NR OC AUD na,en|NU OC NZD niu,en|NZ OC NZD en,mi|OM AS OMR ar|PA NA PAB es|PE SA PEN es,qu
PF OC XPF fr|PG OC PGK en,tpi|PH AS PHP fil,en|PK AS PKR ur,en|PL EU PLN pl|PM NA EUR fr|PN OC NZD en
PR NA USD es,en|PS AS ILS ar|PT EU EUR pt|PW OC USD pau,en|PY SA PYG es,gn|QA AS QAR ar|RE AF EUR fr
RO EU RON ro|RS EU RSD sr|RU EU RUB ru|RW AF RWF rw,en,fr|SA AS SAR ar|SB OC SBD en|SC AF SCR fr,en
SD AF SDG ar,en|SE EU SEK sv|SG AS SGD en,zh,ms,ta|SH AF SHP en|SI EU EUR sl|SJ EU NOK nb|SK EU EUR sk
SL AF SLE en|SM EU EUR it|SN AF XOF fr,wo|SO AF SOS so,ar|SR SA SRD nl|SS AF SSP en|ST AF STN pt
SV NA USD es|SX NA XCG nl,en|SY AS SYP ar|SZ AF SZL en,ss|TC NA USD en|TD AF XAF fr,ar|TF AN EUR fr
TG AF XOF fr|TH AS THB th|TJ AS TJS tg|TK OC NZD en|TL AS USD pt,tet|TM AS TMT tk|TN AF TND ar,fr
TO OC TOP to,en|TR AS TRY tr|TT NA TTD en|TV OC AUD tvl,en|TW AS TWD zh|TZ AF TZS sw,en|UA EU UAH uk
UG AF UGX en,sw|UM OC USD en|US NA USD en,es|UY SA UYU es|UZ AS UZS uz|VA EU EUR it,la|VC NA XCD en
VE SA VES es|VG NA USD en|VI NA USD en|VN AS VND vi|VU OC VUV bi,en,fr|WF OC XPF fr|WS OC WST sm,en
XK EU EUR sq,sr|YE AS YER ar|YT AF EUR fr|ZA AF ZAR en,zu,xh,af|ZM AF ZMW en|ZW AF USD en,sn
"""


@record
class Country:
    """Empty where there is none."""

    continent: str
    currency: str
    languages: tuple[str, ...]


def _countries() -> dict[str, Country]:
    made: dict[str, Country] = {}
    for row in _TABLE.replace("\n", "|").split("|"):
        if row:
            country, continent, currency, languages = row.split()
            spoken = () if languages == "-" else tuple(languages.split(","))
            made[country] = Country(continent, "" if currency == "-" else currency, spoken)
    return made


COUNTRY_DATA = _countries()
"""ISO 3166-1 alpha-2 -> what is known."""
NO_COUNTRY = Country("", "", ())
